//! Compresses and decompresses text.

use miniz_oxide::{deflate::compress_to_vec, inflate::decompress_to_vec};

fn main() {
    let text = work_guests::text(4 << 20);
    let packed = compress_to_vec(text.as_bytes(), 6);
    assert!(packed.len() < text.len() / 2);
    assert_eq!(decompress_to_vec(&packed).expect("it was just compressed"), text.as_bytes());
    println!("{}", packed.len());
}
