//! Components that become one program: which, and in which order.

use sha2::{Digest as _, Sha256};

use crate::entry::Digest;

/// What stands before the digests in the key of a composition. Raised when the compiler composes by another
/// rule. No wasm begins so, so that no file has the key of a composition.
const RULE: &[u8] = b"composed by rule 1\n";
/// How much of a name the compiler is told, in characters.
const NAME: usize = 100;

/// One of several components.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// What its bytes hash to.
    pub sha256: [u8; 32],
    /// How many there are.
    pub size: u64,
    /// What people call it.
    pub name: Option<String>,
}

/// Components that the compiler composes into one, before it compiles that
/// ([`Cache::load_composed`](crate::Cache::load_composed)).
///
/// One of them has an entry that none of the others imports: it is the program. What it imports of WASI it
/// gets from the host, and all else from the one other part that exports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Composition {
    parts: Vec<Part>,
}

impl Composition {
    /// Of these, whose bytes come one after the other.
    #[must_use]
    pub fn new(parts: Vec<Part>) -> Self {
        Self { parts }
    }

    /// What it is known by in the cache: it changes with each part, and with their order.
    #[must_use]
    pub fn key(&self) -> [u8; 32] {
        let parts = self.parts.iter();
        let hash = parts.fold(Sha256::new_with_prefix(RULE), |hash, part| {
            hash.chain_update(part.sha256)
        });
        hash.finalize().into()
    }

    /// The order for the compiler: `SHA256:SIZE:NAME` for each part.
    pub(crate) fn arguments(&self) -> Vec<String> {
        let argument = |part: &Part| {
            let name = part.name.as_deref().unwrap_or_default();
            let printable = |letter: char| if letter.is_control() { ' ' } else { letter };
            let name: String = name.chars().take(NAME).map(printable).collect();
            format!("{}:{}:{name}", Digest::from(part.sha256), part.size)
        };
        self.parts.iter().map(argument).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(digit: u8, name: Option<&str>) -> Part {
        Part {
            sha256: [digit; 32],
            size: 7,
            name: name.map(str::to_owned),
        }
    }

    #[test]
    fn the_key_is_of_contents_and_their_order() {
        let key = |digits: &[u8]| {
            Composition::new(digits.iter().map(|digit| part(*digit, None)).collect()).key()
        };
        assert_eq!(key(&[1, 2]), key(&[1, 2]));
        for other in [&[2, 1][..], &[1], &[1, 2, 2], &[1, 3]] {
            assert_ne!(key(&[1, 2]), key(other), "{other:?}");
        }
        let named = Composition::new(vec![part(1, Some("a")), part(2, Some("b"))]);
        assert_eq!(named.key(), key(&[1, 2]));
    }

    #[test]
    fn a_name_of_any_shape_is_one_argument() {
        let long = "n".repeat(1000);
        let parts = vec![
            part(0, None),
            part(0, Some("a\0b\nc")),
            part(0, Some(&long)),
        ];
        let digest = "00".repeat(32);
        let expected = [
            format!("{digest}:7:"),
            format!("{digest}:7:a b c"),
            format!("{digest}:7:{}", "n".repeat(NAME)),
        ];
        assert_eq!(Composition::new(parts).arguments(), expected);
    }
}
