//! `componentize MODULE COMPONENT`: turns a WASI 0.1 command into a WASI 0.2 component, by the adapter
//! that wasmtime publishes for it.
//!
//! `wasi:cli/exit` of WASI 0.2 knows success and failure only: every exit code but 0 becomes 1.

use std::error::Error;
use std::{env, fs};

use wasi_preview1_component_adapter_provider::{
    WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, WASI_SNAPSHOT_PREVIEW1_COMMAND_ADAPTER,
};
use wit_component::ComponentEncoder;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = env::args().skip(1).collect();
    let [module, component] = args.as_slice() else {
        return Err("usage: componentize MODULE COMPONENT".into());
    };
    let bytes = ComponentEncoder::default()
        .module(&fs::read(module)?)?
        .adapter(
            WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME,
            WASI_SNAPSHOT_PREVIEW1_COMMAND_ADAPTER,
        )?
        .validate(true)
        .encode()?;
    fs::write(component, bytes)?;
    Ok(())
}
