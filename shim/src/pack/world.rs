//! What a component imports and exports, as the CNCF artifact's config lists it.

use wasmparser::{Parser, Payload};

/// The names of the component's own imports and exports, in order.
pub(super) fn of(component: &[u8]) -> Result<(Vec<String>, Vec<String>), String> {
    let (mut imports, mut exports) = (Vec::new(), Vec::new());
    // What is nested in it is not its own.
    let mut depth = 0_usize;
    for payload in Parser::new(0).parse_all(component) {
        let payload = payload.map_err(|error| error.to_string())?;
        if let Payload::ModuleSection { .. } | Payload::ComponentSection { .. } = payload {
            depth += 1;
        } else if let Payload::End(_) = payload {
            depth = depth.saturating_sub(1);
        } else if depth > 0 {
            continue;
        } else if let Payload::ComponentImportSection(section) = payload {
            for import in section {
                let import = import.map_err(|error| error.to_string())?;
                imports.push(import.name.name.to_owned());
            }
        } else if let Payload::ComponentExportSection(section) = payload {
            for export in section {
                let export = export.map_err(|error| error.to_string())?;
                exports.push(export.name.name.to_owned());
            }
        }
    }
    Ok((imports, exports))
}

#[cfg(test)]
mod tests {
    #[test]
    fn only_the_outermost_component_counts() {
        let component = wat::parse_str(
            r#"(component
                (import "a:b/c@1.0.0" (instance))
                (component (import "inner" (func)) (export "inner2" (func 0)))
                (core module (import "x" "y" (func)))
                (instance $i)
                (export "d:e/f@0.2.0" (instance $i)))"#,
        )
        .unwrap();
        let (imports, exports) = super::of(&component).unwrap();
        assert_eq!(imports, ["a:b/c@1.0.0"]);
        assert_eq!(exports, ["d:e/f@0.2.0"]);
    }

    #[test]
    fn a_damaged_component_is_refused() {
        assert!(super::of(b"\0asm\x0d\0\x01\0\xff").is_err());
    }
}
