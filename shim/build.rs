//! Generates the messages of `protos/containerd.proto`, without `protoc`.

fn main() {
    println!("cargo::rerun-if-changed=protos/containerd.proto");
    protobuf_codegen::Codegen::new()
        .pure()
        .include("protos")
        .input("protos/containerd.proto")
        .cargo_out_dir("protos")
        .run_from_script();
}
