//! Linking a component: WASI 0.2 and what comes with it, WASI 0.3 where the engine has it, and what of the
//! component is to be called.

use wasmtime::Engine;
use wasmtime::component::types::{ComponentFunc, ComponentItem};
use wasmtime::component::{Component, ComponentExportIndex, InstancePre, Linker, Type};
use wasmtime_wasi::p2::bindings::CommandPre;
use wasmtime_wasi_http::handler::ProxyPre;
use wasmtime_wasi_http::{p2, p3};
use wasmtime_wasi_tls::p2::LinkOptions;

use crate::call::Call;
use crate::host::Host;
use crate::{Error, Guest, connections, filesystem};

/// What components can import: every interface of these WASI packages.
const WORLD: [&str; 8] = [
    "wasi:cli",
    "wasi:clocks",
    "wasi:config",
    "wasi:filesystem",
    "wasi:http",
    "wasi:io",
    "wasi:random",
    "wasi:sockets",
];
/// A package that is there if [`Guest::tls`] says so.
const TLS: &str = "wasi:tls";

/// What turns on the components that only an asynchronous engine has.
pub(crate) const ASYNCHRONOUS: &str = "wasi-0.3";

/// Links `component`, to call what `guest` asks for. WASI 0.3 is there on an `asynchronous` engine.
pub(crate) fn link(
    component: &Component,
    guest: &Guest,
    asynchronous: bool,
) -> Result<Call, Error> {
    let program = linked(component, guest, asynchronous)?;
    if let Some(export) = &guest.export {
        let export = asked(component, export, asynchronous)?;
        return Ok(Call::Component { program, export });
    }
    if asynchronous && let Some(export) = run_0_3(component) {
        return Ok(Call::Component { program, export });
    }
    CommandPre::new(program)
        .map(Call::Command)
        .map_err(|_| Error::NoEntrypoint {
            wanted: "wasi:cli/run@0.2",
            callable: callable(component, asynchronous),
        })
}

/// `component`, with all that it imports.
fn linked(
    component: &Component,
    guest: &Guest,
    asynchronous: bool,
) -> Result<InstancePre<Host>, Error> {
    let engine = component.engine();
    let imports: Vec<String> = component
        .component_type()
        .imports(engine)
        .map(|(name, _)| name.to_owned())
        .collect();
    let package = |name: &str| name.split('/').next().unwrap_or_default().to_owned();
    let unresolved: Vec<String> = imports
        .iter()
        .filter(|name| {
            let package = package(name);
            package != TLS && !WORLD.contains(&package.as_str())
        })
        .cloned()
        .collect();
    if !unresolved.is_empty() {
        return Err(Error::Unresolved {
            imports: unresolved,
            provided: WORLD.map(str::to_owned).to_vec(),
        });
    }
    if !guest.tls
        && let Some(import) = imports.iter().find(|name| package(name) == TLS)
    {
        return Err(Error::Off {
            what: format!("imports {import}"),
            option: "wasi-tls",
        });
    }
    let new = imports.iter().find(|name| is_0_3(name));
    if !asynchronous && let Some(import) = new {
        return Err(Error::Off {
            what: format!("imports {import}"),
            option: ASYNCHRONOUS,
        });
    }
    linker(engine, new.is_some(), |name, wanted| {
        imports
            .iter()
            .any(|import| package(import) == name && is_0_3(import) == wanted)
    })
    .map_err(Error::engine)?
    .instantiate_pre(component)
    .map_err(|error| Error::Import {
        reason: format!("{error:#}"),
    })
}

/// The interface of a service's export.
const HANDLER: &str = "wasi:http/incoming-handler@0.2.0";
/// The same of WASI 0.3, which has versions of its own.
const HANDLER_0_3: &str = "wasi:http/handler";
/// The interface of a command's.
const COMMAND: &str = "wasi:cli/run@0.2.0";

/// Whether `component` serves HTTP if it is asked for `export`: its handler, by name, or nothing, when it
/// has a handler and is no command.
pub(crate) fn serves(component: &Component, export: Option<&str>) -> bool {
    let has = |interface| component.get_export_index(None, interface).is_some();
    let new = exported_0_3(component, HANDLER_0_3);
    let Some(export) = export else {
        return (has(HANDLER) || new.is_some()) && !has(COMMAND) && run_0_3(component).is_none();
    };
    let interface = export.strip_suffix("#handle").unwrap_or(export);
    let named = interface == "wasi:http/incoming-handler" && has(HANDLER)
        || interface == HANDLER_0_3 && new.is_some();
    let version = |of| interface.starts_with(of) && has(interface);
    named || version("wasi:http/incoming-handler@0.2.") || version("wasi:http/handler@0.3.")
}

/// Links `component`, whose handler `guest` asks for: the one of 0.3, if it names none and there are two.
pub(crate) fn link_service(
    component: &Component,
    guest: &Guest,
    asynchronous: bool,
) -> Result<ProxyPre<Host>, Error> {
    let program = linked(component, guest, asynchronous)?;
    let new = guest.export.as_deref().map_or_else(
        || exported_0_3(component, HANDLER_0_3).is_some(),
        |export| export.starts_with(HANDLER_0_3),
    );
    let service = if new {
        p3::bindings::ServicePre::new(program).map(ProxyPre::P3)
    } else {
        p2::bindings::ProxyPre::new(program).map(ProxyPre::P2)
    };
    service.map_err(|error| Error::Import {
        reason: format!("{error:#}"),
    })
}

/// Whether an interface is one of WASI 0.3.
fn is_0_3(name: &str) -> bool {
    name.starts_with("wasi:")
        && name
            .rsplit_once('@')
            .is_some_and(|(_, version)| version.starts_with("0.3."))
}

/// The start of a component of WASI 0.3.
fn run_0_3(component: &Component) -> Option<ComponentExportIndex> {
    let interface = exported_0_3(component, "wasi:cli/run")?;
    component.get_export_index(Some(&interface), "run")
}

/// The export of that `interface` of WASI 0.3, whatever the last number of its version.
fn exported_0_3(component: &Component, interface: &str) -> Option<ComponentExportIndex> {
    let engine = component.engine();
    let of = component.component_type();
    let mut names = of.exports(engine).map(|(name, _)| name);
    let named = |name: &&str| name.split('@').next() == Some(interface) && is_0_3(name);
    component.get_export_index(None, names.find(named)?)
}

/// All of the world, with WASI 0.3 if it is `new`; packages that few import only if `imports` says so, of
/// a package and whether it is the one of 0.3.
fn linker(
    engine: &Engine,
    new: bool,
    imports: impl Fn(&str, bool) -> bool,
) -> wasmtime::Result<Linker<Host>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    filesystem::add_to_component_linker(&mut linker)?;
    connections::add_to_linker(&mut linker)?;
    if new {
        wasmtime_wasi::p3::add_to_linker(&mut linker)?;
        filesystem::add_to_asynchronous_linker(&mut linker)?;
        connections::add_to_asynchronous_linker(&mut linker)?;
    }
    if imports("wasi:http", false) {
        wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker)?;
    }
    if imports("wasi:http", true) {
        wasmtime_wasi_http::p3::add_to_linker(&mut linker)?;
    }
    if imports("wasi:config", false) {
        wasmtime_wasi_config::add_to_linker(&mut linker, Host::config)?;
    }
    if imports(TLS, false) {
        let mut options = LinkOptions::default();
        options.tls(true);
        wasmtime_wasi_tls::p2::add_to_linker(&mut linker, &options)?;
    }
    Ok(linker)
}

/// Finds `FUNCTION` or `INTERFACE#FUNCTION`. A version of an interface is one that semver says it
/// fits.
fn asked(
    component: &Component,
    export: &str,
    asynchronous: bool,
) -> Result<ComponentExportIndex, Error> {
    let reason = match find(component, export) {
        Some((ComponentItem::ComponentFunc(of), index)) if fits(&of, asynchronous) => {
            return Ok(index);
        }
        Some((ComponentItem::ComponentFunc(_), _)) => {
            "it takes parameters, or what it returns is no exit code".to_owned()
        }
        Some(_) => "it is no function".to_owned(),
        None => "there is no such export".to_owned(),
    };
    Err(Error::NoExport {
        wanted: export.to_owned(),
        reason,
        callable: callable(component, asynchronous),
    })
}

fn find(component: &Component, export: &str) -> Option<(ComponentItem, ComponentExportIndex)> {
    let Some((interface, function)) = export.rsplit_once('#') else {
        return component.get_export(None, export);
    };
    let interface = component.get_export_index(None, interface)?;
    component.get_export(Some(&interface), function)
}

/// The functions that could be asked for.
fn callable(component: &Component, asynchronous: bool) -> Vec<String> {
    let engine = component.engine();
    let mut callable = Vec::new();
    for (name, export) in component.component_type().exports(engine) {
        if let ComponentItem::ComponentFunc(of) = &export.ty
            && fits(of, asynchronous)
        {
            callable.push(name.to_owned());
        } else if let ComponentItem::ComponentInstance(interface) = &export.ty {
            for (function, export) in interface.exports(engine) {
                if let ComponentItem::ComponentFunc(of) = &export.ty
                    && fits(of, asynchronous)
                {
                    callable.push(format!("{name}#{function}"));
                }
            }
        }
    }
    callable
}

/// Whether a function takes nothing and returns what can be an exit code.
fn fits(function: &ComponentFunc, asynchronous: bool) -> bool {
    let mut results = function.results();
    let returns = match (results.next(), results.next()) {
        (None, _) => true,
        (Some(answer), None) => matches!(
            answer,
            Type::Result(_) | Type::U8 | Type::U16 | Type::U32 | Type::S8 | Type::S16 | Type::S32
        ),
        (Some(_), Some(_)) => false,
    };
    returns && function.params().len() == 0 && (asynchronous || !function.async_())
}
