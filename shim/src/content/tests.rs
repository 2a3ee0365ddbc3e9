//! Blobs that are not there, or are not what they are called.

use super::*;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const EMPTY: &[u8] = br#"{"schemaVersion":2,"layers":[],"config":{
    "mediaType":"application/vnd.oci.empty.v1+json","size":2,
    "digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"}}"#;

fn blob(content: &[u8], size: u64) -> Blob {
    let digest = Sha256::digest(content);
    let digits: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    Blob::new(MANIFEST, &format!("sha256:{digits}"), size).unwrap()
}

fn received(blob: &Blob, parts: &[&[u8]]) -> Result<Vec<u8>, ContentError> {
    let (sender, arriving) = mpsc::channel(parts.len() + 1);
    let data = parts.iter().map(|part| Piece::Data(part.to_vec()));
    for piece in data.chain([Piece::End(Ok(()))]) {
        assert!(sender.try_send(piece).is_ok());
    }
    let mut content = Vec::new();
    receive(blob, arriving, &mut content).map(|()| content)
}

#[test]
fn content_in_parts_is_what_its_digest_names() {
    let content = received(&blob(b"wasm layer", 10), &[b"wasm", b" layer"]);
    assert_eq!(content.unwrap(), b"wasm layer");
}

#[test]
fn content_that_is_not_what_its_digest_names_is_refused() {
    let blob = blob(b"wasm layer", 10);
    for (content, how) in [
        (&b"wasm lawyer"[..], "it is longer than 10 bytes"),
        (b"wasm", "it ends after 4 of 10 bytes"),
        (b"wasm lager", "its digest is another one"),
    ] {
        let error = received(&blob, &[content]).unwrap_err().to_string();
        let expected =
            format!("the content {blob} is damaged: {how}; remove the image and pull it again");
        assert_eq!(error, expected);
    }
}

#[test]
fn the_first_manifest_that_was_pulled_counts() {
    let (absent, damaged, present) = (blob(b"absent", 6), blob(b"damaged", 7), blob(EMPTY, 9));
    let read = |asked: &Blob| {
        if *asked == absent {
            let blobs = vec![asked.clone()];
            return Err(ContentError::Missing { blobs });
        }
        assert_ne!(*asked, damaged, "asked for after one was found");
        Ok(EMPTY.to_vec())
    };
    let step = first(vec![absent.clone(), present, damaged.clone()], read).unwrap();
    assert_eq!(step, Step::Nothing);
}

#[test]
fn all_manifests_that_would_do_are_named_as_missing() {
    let wanted = vec![blob(b"a", 1), blob(b"b", 1)];
    let read = |asked: &Blob| {
        let blobs = vec![asked.clone()];
        Err(ContentError::Missing { blobs })
    };
    let error = first(wanted.clone(), read).unwrap_err().to_string();
    let expected = format!(
        "containerd has no content {} and no {}: ",
        wanted[0], wanted[1]
    );
    assert!(error.starts_with(&expected), "{error}");
}

#[test]
fn a_damaged_manifest_is_not_passed_over() {
    let mut asked = 0;
    let error = first(vec![blob(b"a", 1), blob(b"b", 1)], |blob| {
        asked += 1;
        received(blob, &[b"c"])
    });
    assert!(
        matches!(error, Err(ContentError::Damaged { .. })),
        "{error:?}"
    );
    assert_eq!(asked, 1);
}
