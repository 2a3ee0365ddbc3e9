//! Command lines, and the tars that they make.

use std::collections::BTreeMap;
use std::io::Read;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::request::Shape;
use super::*;

const MODULE: &[u8] = b"\0asm\x01\0\0\0";

fn parse(line: &str) -> Result<Request, String> {
    Request::parse(line.split_whitespace().map(OsString::from))
}

fn packing(line: &str) -> Box<Packing> {
    match parse(line).unwrap() {
        Request::Pack(packing) => packing,
        Request::Help => panic!("{line} asks for help"),
    }
}

fn folder(wasm: &[u8]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("App One.wasm"), wasm).unwrap();
    folder
}

/// Packs the folder's file; the files of the tar by path.
fn packed(folder: &TempDir, flags: &str) -> BTreeMap<String, Vec<u8>> {
    let words = flags.split_whitespace().map(OsString::from);
    let output = folder.path().join("out.tar");
    let own = [
        folder.path().join("App One.wasm").into(),
        "-o".into(),
        output.clone().into(),
    ];
    let Request::Pack(packing) = Request::parse(words.chain(own)).unwrap() else {
        panic!("{flags} asks for help");
    };
    pack(&packing).unwrap();
    files(&fs::read(&output).unwrap())
}

fn files(tar: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let mut tar = tar::Archive::new(tar);
    let read = |entry: io::Result<tar::Entry<'_, &[u8]>>| {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().display().to_string();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        (path, content)
    };
    tar.entries().unwrap().map(read).collect()
}

/// The blob of a descriptor, checked.
fn blob<'a>(files: &'a BTreeMap<String, Vec<u8>>, descriptor: &Value) -> &'a [u8] {
    let digest = descriptor["digest"].as_str().unwrap();
    let path = format!("blobs/{}", digest.replace(':', "/"));
    let content = &files[&path];
    assert_eq!(descriptor["size"], json!(content.len()));
    assert_eq!(digest, format!("sha256:{:x}", Sha256::digest(content)));
    content
}

fn json_of(files: &BTreeMap<String, Vec<u8>>, descriptor: &Value) -> Value {
    serde_json::from_slice(blob(files, descriptor)).unwrap()
}

/// The index's entry, the manifest and the config.
fn documents(files: &BTreeMap<String, Vec<u8>>) -> (Value, Value, Value) {
    let index: Value = serde_json::from_slice(&files["index.json"]).unwrap();
    let entry = index["manifests"][0].clone();
    let manifest = json_of(files, &entry);
    let config = json_of(files, &manifest["config"]);
    (entry, manifest, config)
}

#[test]
fn an_image_has_the_wasm_as_a_file() {
    let flags = "--platform wasip1/wasm --env A=b=c --env D= --cmd one --workdir /srv";
    let files = packed(&folder(MODULE), flags);
    let (entry, manifest, config) = documents(&files);
    let name = &entry["annotations"]["io.containerd.image.name"];
    assert_eq!(name, "localhost/app-one:latest");
    assert_eq!(entry.get("platform"), None);
    assert_eq!(config["architecture"], "wasm");
    assert_eq!(config["os"], "wasip1");
    assert_eq!(
        config["config"],
        json!({ "Entrypoint": ["/App One.wasm"], "Cmd": ["one"], "Env": ["A=b=c", "D="],
            "WorkingDir": "/srv" })
    );
    let layer = &manifest["layers"][0];
    assert_eq!(layer["mediaType"], "application/vnd.oci.image.layer.v1.tar");
    assert_eq!(config["rootfs"]["diff_ids"], json!([layer["digest"]]));
    let inside = self::files(blob(&files, layer));
    assert_eq!(
        inside,
        BTreeMap::from([("App One.wasm".to_owned(), MODULE.to_vec())])
    );
    let docker: Value = serde_json::from_slice(&files["manifest.json"]).unwrap();
    assert_eq!(docker[0]["RepoTags"], json!(["localhost/app-one:latest"]));
}

#[test]
fn a_layer_is_the_wasm_itself() {
    let files = packed(&folder(MODULE), "--layer --entrypoint x --name a.test/b");
    let (entry, manifest, config) = documents(&files);
    assert_eq!(
        entry["annotations"]["io.containerd.image.name"],
        "a.test/b:latest"
    );
    assert_eq!(blob(&files, &manifest["layers"][0]), MODULE);
    assert_eq!(manifest["layers"][0]["mediaType"], "application/wasm");
    assert_eq!(config["rootfs"]["diff_ids"], json!([]));
    assert_eq!(config["config"]["Entrypoint"], json!(["x"]));
}

#[test]
fn an_artifact_is_the_cncfs() {
    let files = packed(&folder(MODULE), "--artifact");
    let (entry, manifest, config) = documents(&files);
    assert_eq!(entry.get("platform"), None);
    let layer = &manifest["layers"][0];
    assert_eq!(blob(&files, layer), MODULE);
    let title = &layer["annotations"]["org.opencontainers.image.title"];
    assert_eq!(title, "App One.wasm");
    let config_type = &manifest["config"]["mediaType"];
    assert_eq!(config_type, "application/vnd.wasm.config.v0+json");
    assert_eq!(config["layerDigests"], json!([layer["digest"]]));
    assert_eq!(
        (&config["os"], &config["component"]),
        (&json!("wasip1"), &Value::Null)
    );

    let component = wat::parse_str(r#"(component (import "a:b/c" (instance)))"#).unwrap();
    let (_, _, config) = documents(&packed(&folder(&component), "--artifact"));
    assert_eq!(config["os"], "wasip2");
    assert_eq!(config["component"]["imports"], json!(["a:b/c"]));
}

#[test]
fn the_same_input_makes_the_same_bytes() {
    for flags in ["--env A=1 --env B=2", "--layer", "--artifact"] {
        let make = || {
            let folder = folder(MODULE);
            packed(&folder, flags);
            fs::read(folder.path().join("out.tar")).unwrap()
        };
        assert_eq!(make(), make(), "{flags}");
    }
}

#[test]
fn long_names_and_odd_sizes_fit_into_a_tar() {
    let folder = tempfile::tempdir().unwrap();
    let name = format!("{}.wasm", "long".repeat(40));
    let wasm = folder.path().join(&name);
    for size in [511, 512, 513] {
        let mut content = MODULE.to_vec();
        content.resize(size, 0);
        fs::write(&wasm, &content).unwrap();
        let line = format!(
            "{} -o {}",
            wasm.display(),
            folder.path().join("o").display()
        );
        pack(&packing(&line)).unwrap();
        let files = files(&fs::read(folder.path().join("o")).unwrap());
        let (_, manifest, _) = documents(&files);
        let inside = self::files(blob(&files, &manifest["layers"][0]));
        assert_eq!(inside[&name], content);
    }
}

#[test]
fn what_is_no_wasm_is_refused_and_leaves_nothing() {
    let folder = folder(b"#!/bin/sh");
    let wasm = folder.path().join("App One.wasm");
    let output = folder.path().join("out.tar");
    let words = [wasm.into(), "-o".into(), output.into()];
    let Request::Pack(packing) = Request::parse(words.into_iter()).unwrap() else {
        panic!("it asks for help");
    };
    let reason = pack(&packing).unwrap_err();
    assert!(
        reason.contains("a script starting with #!, not WebAssembly"),
        "{reason}"
    );
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn a_file_that_changes_meanwhile_is_noticed() {
    let folder = folder(MODULE);
    let path = folder.path().join("App One.wasm");
    let line = [path.clone().into(), "-o".into(), "-".into()];
    let Request::Pack(packing) = Request::parse(line.into_iter()).unwrap() else {
        panic!("it asks for help");
    };
    let layout = Layout::of(&packing, &|_| {}, &|_| {}).unwrap();
    for changed in [&b"\0asm\x01\0\0\x01"[..], b"\0asm", b"\0asm\x01\0\0\0\0"] {
        fs::write(&path, changed).unwrap();
        let reason = layout.write(&mut io::sink(), &|_| {}).unwrap_err();
        assert!(
            reason.contains("has changed while it was packed"),
            "{reason}"
        );
    }
}

#[test]
fn names_are_completed() {
    for (flags, name) in [
        ("App.wasm -o o", "localhost/app:latest"),
        ("/x/My_App.v2.wasm -o o", "localhost/my-app-v2:latest"),
        ("a.wasm -o o --name r.test:5000/a", "r.test:5000/a:latest"),
        ("a.wasm -o o --name=r.test:5000/a:1", "r.test:5000/a:1"),
    ] {
        assert_eq!(packing(flags).name, name, "{flags}");
    }
    assert_eq!(packing("a.wasm -o o --layer").shape, Shape::Layer);
}

#[test]
fn what_does_not_fit_is_named() {
    for (line, part) in [
        ("-o o", "needs a FILE"),
        ("a.wasm", "needs -o"),
        ("a.wasm b.wasm -o o", "takes one FILE"),
        ("a.wasm -o", "flag needs a value: -o"),
        ("a.wasm -o o --frob", "no flag --frob"),
        ("a.wasm -o o --platform linux/amd64", "no platform of wasm"),
        ("a.wasm -o o --env A", "takes NAME=VALUE"),
        ("a.wasm -o o --env =A", "takes NAME=VALUE"),
        ("a.wasm -o o --artifact --layer", "choose one"),
        (
            "a.wasm -o o --artifact --env A=b",
            "an artifact has no place",
        ),
        (
            "a.wasm -o o --artifact --platform wasip1/wasm",
            "leave --platform away",
        ),
        ("a.wasm -o o --name=", "no name of an image"),
    ] {
        let error = parse(line).unwrap_err();
        assert!(error.contains(part), "{line}: {error}");
    }
    assert_eq!(parse("--help"), Ok(Request::Help));
}
