//! How soon the kernel ends the shim when memory runs out.
//!
//! It is one process, so there is one score: at least containerd's and one, so that the shim goes before
//! containerd, and while a container runs that asks for a higher one (`process.oomScoreAdj`, which
//! Kubernetes sets by class of pod), that one. Otherwise the kernel would pass over what really uses the
//! memory.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

/// What proc(5) allows.
const RANGE: (i32, i32) = (-1000, 1000);

/// The scores that containers ask for. Cloning shares them.
#[derive(Debug, Clone, Default)]
pub struct OomScore(Arc<Mutex<Asked>>);

#[derive(Debug, Default)]
struct Asked {
    /// The shim's own; none if it is not known, and nothing is changed then.
    own: Option<i32>,
    containers: HashMap<String, i32>,
}

/// The score of a shim whose own is `own`. A pure function.
fn highest(own: i32, containers: impl Iterator<Item = i32>) -> i32 {
    containers.fold(own, i32::max).clamp(RANGE.0, RANGE.1)
}

impl OomScore {
    /// That of a shim whose own score is `own`, which is set.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn new(own: i32) -> io::Result<Self> {
        let asked = Asked {
            own: Some(own),
            ..Asked::default()
        };
        asked.apply()?;
        Ok(Self(Arc::new(Mutex::new(asked))))
    }

    /// Container `id` asks for `score`, from now on until [`Self::forget`].
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn ask(&self, id: &str, score: i32) -> io::Result<()> {
        self.change(|asked| {
            asked.containers.insert(id.to_owned(), score);
        })
    }

    /// Container `id` is gone.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn forget(&self, id: &str) -> io::Result<()> {
        self.change(|asked| {
            asked.containers.remove(id);
        })
    }

    fn change(&self, change: impl FnOnce(&mut Asked)) -> io::Result<()> {
        // A map operation is not torn by a panic elsewhere.
        let mut asked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = asked.score();
        change(&mut asked);
        if asked.score() == before {
            return Ok(());
        }
        asked.apply()
    }
}

impl Asked {
    fn score(&self) -> Option<i32> {
        let containers = self.containers.values().copied();
        self.own.map(|own| highest(own, containers))
    }

    fn apply(&self) -> io::Result<()> {
        match self.score() {
            Some(score) => fs::write("/proc/self/oom_score_adj", score.to_string()),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_of_all_counts_and_none_is_below_the_shims_own() {
        assert_eq!(highest(1, [].into_iter()), 1);
        assert_eq!(highest(1, [-998, 2].into_iter()), 2);
        assert_eq!(highest(1, [-998].into_iter()), 1);
        assert_eq!(highest(-998, [-997].into_iter()), -997);
        assert_eq!(highest(1, [2000].into_iter()), 1000);
    }
}
