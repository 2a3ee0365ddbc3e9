//! Generates the messages of `protos/`, without `protoc`.

fn main() {
    println!("cargo::rerun-if-changed=protos");
    protobuf_codegen::Codegen::new()
        .pure()
        .include("protos")
        .input("protos/otlp.proto")
        .cargo_out_dir("protos")
        .run_from_script();
}
