//! Several components, composed into one that is a program.
//!
//! The rule (docs/images.md), which looks at names first and at types last:
//!
//! - The program is the one layer with an entry, `wasi:cli/run` or an HTTP handler, that no other layer
//!   imports. What it exports, the composed component exports.
//! - What a layer imports of WASI is the host's. All else it imports, and entries, which no host has, come
//!   from the one other layer that exports an interface of that name and of a compatible version (of one
//!   major version, or below 1.0.0 of one minor version).
//! - A layer is instantiated once, whoever imports from it. One that nobody needs is a mistake, as is one that
//!   needs itself.
//!
//! The layers are hostile; what is made of them is checked by the compiler, as any component is.

use semver::Version;
use wasm_compose::graph::{Component, CompositionGraph, EncodeOptions};
use wasmparser::{ComponentTypeRef, Validator, WasmFeatures};

/// What the host runs: `wasi:cli/run`, the HTTP handlers of WASI 0.2 and 0.3.
const ENTRIES: [&str; 3] = [
    "wasi:cli/run",
    "wasi:http/incoming-handler",
    "wasi:http/handler",
];
/// Of what a layer exports, how many names are told.
const TOLD: usize = 5;

/// One of the components.
#[derive(Debug)]
pub(crate) struct Layer<'a> {
    /// What people know it by.
    pub(crate) name: &'a str,
    /// All of it.
    pub(crate) wasm: &'a [u8],
}

/// What a component wants and has, by names; types aside, which come with what uses them.
#[derive(Debug)]
struct Face {
    name: String,
    imports: Vec<String>,
    exports: Vec<String>,
}

/// Layer `target` imports `import` from layer `source`, which calls it `export`.
#[derive(Debug, PartialEq, Eq)]
struct Wire {
    source: usize,
    export: String,
    target: usize,
    import: String,
}

/// One component of `layers`.
pub(crate) fn compose(layers: &[Layer<'_>]) -> Result<Vec<u8>, String> {
    let mut validator = Validator::new_with_features(WasmFeatures::all());
    let mut graph = CompositionGraph::new();
    let (mut faces, mut ids) = (Vec::new(), Vec::new());
    for (number, Layer { name, wasm }) in layers.iter().enumerate() {
        // Before it is parsed, by which text would be assembled.
        if !crate::is_component(wasm) {
            return Err(format!(
                "layer {name} is no component, and only components can be composed; put a module into an \
                 image of its own, or make a component of it (`wasm-tools component new`)"
            ));
        }
        let failed = |error| format!("layer {name}: {error:#}");
        let component = Component::from_bytes(&mut validator, format!("layer{number}"), *wasm)
            .map_err(failed)?;
        faces.push(Face::of(name, &component));
        ids.push(graph.add_component(component).map_err(failed)?);
    }
    let (root, wires) = wire(&faces)?;
    let failed = |error| format!("its layers cannot be composed: {error:#}");
    let instances: Result<Vec<_>, _> = ids.iter().map(|id| graph.instantiate(*id)).collect();
    let instances = instances.map_err(failed)?;
    for wire in &wires {
        let (source, target) = (&faces[wire.source], &faces[wire.target]);
        let export = graph.get_component(ids[wire.source]);
        let export = export.and_then(|component| component.export_by_name(&wire.export));
        let import = graph.get_component(ids[wire.target]);
        let import = import.and_then(|component| component.import_by_name(&wire.import));
        let (Some((export, ..)), Some((import, _))) = (export, import) else {
            unreachable!("both names are the components' own");
        };
        graph
            .connect(
                instances[wire.source],
                Some(export),
                instances[wire.target],
                import,
            )
            .map_err(|error| {
                format!(
                    "layer {} imports {}, which layer {} exports with other types; build both from the same \
                     WIT ({error:#})",
                    target.name, wire.import, source.name
                )
            })?;
    }
    let options = EncodeOptions {
        define_components: true,
        export: Some(instances[root]),
        validate: false,
    };
    graph.encode(options).map_err(failed)
}

impl Face {
    fn of(name: &str, component: &Component<'_>) -> Self {
        let imports = component
            .imports()
            .filter(|(_, _, ty)| !matches!(ty, ComponentTypeRef::Type(_)));
        Self {
            name: name.to_owned(),
            imports: imports.map(|(_, name, _)| name.to_owned()).collect(),
            exports: component
                .exports()
                .map(|(_, name, ..)| name.to_owned())
                .collect(),
        }
    }

    /// What it imports and the host does not have.
    fn wants(&self) -> impl Iterator<Item = &str> {
        let imports = self.imports.iter().map(String::as_str);
        imports.filter(|import| !import.starts_with("wasi:") || is_entry(import))
    }

    /// What it exports that is good for `import`.
    fn has(&self, import: &str) -> Option<&str> {
        let mut exports = self.exports.iter().map(String::as_str);
        exports.find(|export| fits(import, export))
    }
}

/// The layer that is the program, and what connects them all.
fn wire(faces: &[Face]) -> Result<(usize, Vec<Wire>), String> {
    let root = root(faces)?;
    let mut wires = Vec::new();
    for (target, face) in faces.iter().enumerate() {
        for import in face.wants() {
            let others = faces
                .iter()
                .enumerate()
                .filter(|(source, _)| *source != target);
            let sources: Vec<(usize, &str)> = others
                .filter_map(|(source, other)| Some((source, other.has(import)?)))
                .collect();
            match sources.as_slice() {
                [(source, export)] => wires.push(Wire {
                    source: *source,
                    export: (*export).to_owned(),
                    target,
                    import: import.to_owned(),
                }),
                [] => {
                    return Err(format!(
                        "layer {} imports {import}, which no other layer exports; add the layer that does, \
                         or compose them before (`wac plug`)",
                        face.name
                    ));
                }
                several => {
                    let several = several.iter().map(|(source, _)| &*faces[*source].name);
                    return Err(format!(
                        "layer {} imports {import}, which several layers export ({}); leave one of them, or \
                         compose them before (`wac plug`)",
                        face.name,
                        list(several)
                    ));
                }
            }
        }
    }
    reach(faces, root, &wires)?;
    Ok((root, wires))
}

fn root(faces: &[Face]) -> Result<usize, String> {
    let wanted = |layer: usize| {
        let others = faces
            .iter()
            .enumerate()
            .filter(|(other, _)| *other != layer);
        others
            .flat_map(|(_, other)| other.wants())
            .any(|import| is_entry(import) && faces[layer].has(import).is_some())
    };
    let entered: Vec<usize> = (0..faces.len())
        .filter(|layer| faces[*layer].exports.iter().any(|name| is_entry(name)))
        .collect();
    let roots: Vec<usize> = entered
        .iter()
        .copied()
        .filter(|layer| !wanted(*layer))
        .collect();
    match roots.as_slice() {
        [root] => Ok(*root),
        [] if entered.is_empty() => Err(format!(
            "none of its layers ({}) is a program: one has to export {}",
            list(faces.iter().map(|face| &*face.name)),
            ENTRIES.join(" or ")
        )),
        [] => Err(format!(
            "each of its layers that could be the program ({}) is imported by another one of them",
            list(entered.iter().map(|layer| &*faces[*layer].name))
        )),
        several => Err(format!(
            "several of its layers are programs ({}); leave one of them, or compose them before (`wac plug`)",
            list(several.iter().map(|layer| &*faces[*layer].name))
        )),
    }
}

/// That the program needs each layer, and none needs itself.
fn reach(faces: &[Face], root: usize, wires: &[Wire]) -> Result<(), String> {
    let mut needed = vec![false; faces.len()];
    let mut open = vec![root];
    while let Some(layer) = open.pop() {
        if !std::mem::replace(&mut needed[layer], true) {
            let sources = wires.iter().filter(|wire| wire.target == layer);
            open.extend(sources.map(|wire| wire.source));
        }
    }
    if let Some(idle) = needed.iter().position(|needed| !needed) {
        let Face { name, exports, .. } = &faces[idle];
        let told = exports.iter().take(TOLD).map(String::as_str);
        return Err(format!(
            "no layer imports anything from layer {name} (it exports {}); leave it out, or build both sides \
             from the same WIT",
            list(told)
        ));
    }
    // What depends on nothing that is left goes; what stays depends on itself.
    let mut left: Vec<usize> = (0..faces.len()).collect();
    loop {
        let before = left.len();
        let waits = |layer: usize| {
            let mut sources = wires.iter().filter(|wire| wire.target == layer);
            sources.any(|wire| left.contains(&wire.source))
        };
        let next: Vec<usize> = left.iter().copied().filter(|layer| waits(*layer)).collect();
        left = next;
        if left.is_empty() {
            return Ok(());
        }
        if left.len() == before {
            return Err(format!(
                "its layers import from each other in a circle ({}), and one has to be first",
                list(left.iter().map(|layer| &*faces[*layer].name))
            ));
        }
    }
}

fn is_entry(name: &str) -> bool {
    ENTRIES.contains(&split(name).0)
}

/// Whether what is exported as `export` serves who imports `import`.
fn fits(import: &str, export: &str) -> bool {
    let ((import, wanted), (export, had)) = (split(import), split(export));
    import == export
        && match (wanted, had) {
            (None, None) => true,
            (Some(wanted), Some(had)) => {
                wanted == had || track(wanted).is_some_and(|t| track(had) == Some(t))
            }
            (Some(_), None) | (None, Some(_)) => false,
        }
}

/// The name of an interface without its version, and that.
fn split(name: &str) -> (&str, Option<&str>) {
    name.split_once('@')
        .map_or((name, None), |(name, version)| (name, Some(version)))
}

/// Versions on one track are compatible; none is with a version that is on no track (component model,
/// Explainer.md, "canonical interface name").
fn track(version: &str) -> Option<(u64, u64)> {
    let Version {
        major, minor, pre, ..
    } = Version::parse(version).ok()?;
    match (major, minor) {
        (_, _) if !pre.is_empty() => None,
        (0, 0) => None,
        (0, minor) => Some((0, minor)),
        (major, _) => Some((major, 0)),
    }
}

fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.collect();
    names.join(", ")
}

#[cfg(test)]
mod tests;
