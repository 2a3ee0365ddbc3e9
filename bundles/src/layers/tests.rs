//! Documents as tools write them.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

fn digest(digit: char) -> String {
    format!("sha256:{}", digit.to_string().repeat(64))
}

fn descriptor(media_type: &str, digit: char) -> Value {
    json!({ "mediaType": media_type, "digest": digest(digit), "size": 8 })
}

fn look(media_type: &str, document: &Value) -> Result<Step, LayersError> {
    let blob = Blob::new(media_type, &digest('f'), 1).unwrap();
    blob.look(&serde_json::to_vec(document).unwrap())
}

fn manifest_of(config: &str, layers: &[Value]) -> Result<Step, LayersError> {
    look(
        MANIFEST,
        &json!({ "schemaVersion": 2, "mediaType": MANIFEST,
            "config": descriptor(config, 'c'), "layers": layers }),
    )
}

fn index_of(entries: &[(&str, &str)]) -> Result<Step, LayersError> {
    let manifests: Vec<Value> = entries
        .iter()
        .zip('0'..)
        .map(|((os, architecture), digit)| {
            let mut entry = descriptor(MANIFEST, digit);
            if !os.is_empty() {
                entry["platform"] = json!({ "os": os, "architecture": architecture });
            }
            entry
        })
        .collect();
    look(
        INDEX,
        &json!({ "schemaVersion": 2, "manifests": manifests }),
    )
}

fn chosen(step: Step) -> String {
    match step {
        Step::Read(blobs) | Step::Program(blobs) => {
            blobs.iter().map(Blob::digest).collect::<Vec<_>>().join(" ")
        }
        Step::Nothing => "nothing".to_owned(),
    }
}

#[test]
fn a_wasm_layer_counts_under_any_config() {
    for media_type in WASM_LAYERS {
        for config in [
            "application/vnd.oci.image.config.v1+json",
            "application/vnd.docker.container.image.v1+json",
            "application/vnd.wasm.config.v0+json",
            "application/vnd.wasm.config.v1+json",
            "application/vnd.oci.empty.v1+json",
        ] {
            let step = manifest_of(config, &[descriptor(media_type, '1')]).unwrap();
            assert!(matches!(step, Step::Program(_)), "{media_type} {config}");
            assert_eq!(chosen(step), digest('1'));
        }
    }
}

#[test]
fn files_beside_a_wasm_layer_are_passed_over() {
    let tar = "application/vnd.oci.image.layer.v1.tar+gzip";
    let layers = [descriptor(tar, '1'), descriptor("application/wasm", '2')];
    let step = manifest_of("application/vnd.oci.image.config.v1+json", &layers).unwrap();
    assert_eq!(chosen(step), digest('2'));
    let step = manifest_of("application/vnd.oci.image.config.v1+json", &layers[..1]).unwrap();
    assert_eq!(step, Step::Nothing);
}

#[test]
fn several_wasm_layers_are_the_program_together() {
    let mut titled = descriptor("application/wasm", '1');
    titled["annotations"] = json!({ "org.opencontainers.image.title": "a.wasm" });
    let layers = [titled, descriptor("application/wasm", '2')];
    let step = manifest_of("application/vnd.wasm.config.v0+json", &layers).unwrap();
    assert_eq!(
        chosen(step.clone()),
        format!("{} {}", digest('1'), digest('2'))
    );
    let Step::Program(blobs) = step else {
        panic!("{step:?}");
    };
    assert_eq!(blobs[0].title(), Some("a.wasm"));
}

#[test]
fn layers_beyond_a_number_are_refused() {
    let layers = vec![descriptor("application/wasm", '1'); MAX_LAYERS + 1];
    let error = manifest_of("application/vnd.wasm.config.v0+json", &layers).unwrap_err();
    assert!(
        error.to_string().starts_with("it has 33 wasm layers"),
        "{error}"
    );
    manifest_of("application/vnd.wasm.config.v0+json", &layers[1..]).unwrap();
}

#[test]
fn a_plugin_is_no_program() {
    let layer = descriptor("application/vnd.module.wasm.content.layer.v1+wasm", '1');
    let error = manifest_of("application/vnd.oci.image.config.v1+json", &[layer]).unwrap_err();
    assert!(matches!(error, LayersError::Plugin { .. }), "{error:?}");
    assert!(error.to_string().contains("Trivy"), "{error}");
}

#[test]
fn the_wasm_platforms_of_an_index_count_in_its_order() {
    for (os, architecture) in [
        ("wasi", "wasm"),
        ("wasi", "wasm32"),
        ("wasip1", "wasm"),
        ("wasip2", "wasm"),
    ] {
        let entries = [("linux", "amd64"), (os, architecture), ("wasip2", "wasm")];
        let step = index_of(&entries).unwrap();
        assert!(matches!(step, Step::Read(_)));
        let both = format!("{} {}", digest('1'), digest('2'));
        assert_eq!(chosen(step), both, "{os}/{architecture}");
    }
}

#[test]
fn an_index_without_wasm_says_nothing() {
    for entries in [
        &[("linux", "amd64"), ("linux", "arm64")][..],
        &[("linux", "amd64")],
        &[("js", "wasm")],
        &[("", ""), ("", "")],
        &[],
    ] {
        assert_eq!(index_of(entries).unwrap(), Step::Nothing, "{entries:?}");
    }
}

#[test]
fn one_manifest_without_a_platform_counts() {
    assert_eq!(chosen(index_of(&[("", "")]).unwrap()), digest('0'));
}

#[test]
fn attestations_are_passed_over() {
    let mut image = descriptor(MANIFEST, '1');
    image["platform"] = json!({ "os": "wasi", "architecture": "wasm" });
    let mut attestation = descriptor(MANIFEST, '2');
    // What BuildKit writes, but for the platform, which must not matter.
    attestation["platform"] = json!({ "os": "wasi", "architecture": "wasm" });
    attestation["annotations"] = json!({ "vnd.docker.reference.type": "attestation-manifest" });
    let manifests = [attestation, image];
    let step = look(
        INDEX,
        &json!({ "schemaVersion": 2, "manifests": manifests }),
    )
    .unwrap();
    assert_eq!(chosen(step), digest('1'));
}

#[test]
fn dockers_documents_are_read_as_well() {
    let list = "application/vnd.docker.distribution.manifest.list.v2+json";
    let mut entry = descriptor("application/vnd.docker.distribution.manifest.v2+json", '1');
    entry["platform"] = json!({ "os": "wasi", "architecture": "wasm" });
    let step = look(list, &json!({ "schemaVersion": 2, "manifests": [entry] })).unwrap();
    let Step::Read(blobs) = step else {
        panic!("{step:?}");
    };
    assert!(blobs[0].is_document());
}

#[test]
fn only_sha256_can_be_checked() {
    for digest in ["sha512:00", "sha256:", "sha256:0", "sha256:xyz", "", "00"] {
        let error = Blob::new(MANIFEST, digest, 1).unwrap_err();
        assert!(matches!(error, LayersError::Digest { .. }), "{digest}");
    }
}

#[test]
fn what_is_no_json_is_named() {
    let blob = Blob::new(MANIFEST, &digest('f'), 1).unwrap();
    let text = blob.look(b"{").unwrap_err().to_string();
    assert_eq!(text, format!("{} is no image manifest", digest('f')));
}

proptest! {
    #[test]
    fn a_digest_reads_as_it_is_written(sha256: [u8; 32]) {
        let digits: String = sha256.iter().map(|byte| format!("{byte:02x}")).collect();
        let blob = Blob::new("", &format!("sha256:{digits}"), 0).unwrap();
        prop_assert_eq!(blob.sha256(), &sha256);
        prop_assert_eq!(blob.digest(), format!("sha256:{digits}"));
    }

    #[test]
    fn no_document_panics(text in "\\PC*") {
        for media_type in [INDEX, MANIFEST] {
            let blob = Blob::new(media_type, &digest('0'), 0).unwrap();
            prop_assert!(blob.look(text.as_bytes()).is_err());
        }
    }
}
