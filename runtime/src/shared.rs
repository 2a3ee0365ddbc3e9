//! The code that this process has mapped. Guests of one program share it, and what stops them, however many
//! containers they are.
//!
//! Code is known by the entry it was mapped from: not by its name, which may mean another file by now, as a
//! damaged entry is replaced and an evicted one made again, but by the file itself. Its number is no
//! other file's while it is mapped. Nothing is kept that nobody uses: the last guest of a program unmaps it.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::Engine;
use crate::artifact::Code;
use crate::engine::WasmtimeEngine;
use crate::fence::Fence;
use crate::interrupt::Means;
use crate::mapped::Mapped;

/// Code by the entry it was mapped from, and whether a pool's engine did that.
#[derive(Debug, Default)]
pub(crate) struct Shared(Mutex<HashMap<(EntryFile, bool), Known>>);

/// An entry's file, as long as it is mapped. Of another length it was tampered with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct EntryFile {
    device: u64,
    inode: u64,
    length: u64,
}

/// What stops the guests of a program has its code, and each guest has that.
#[derive(Debug)]
enum Known {
    Fence(Weak<Fence>),
    Epoch(WasmtimeEngine, Weak<Mapped>),
}

impl EntryFile {
    pub(crate) fn of(file: &File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        Ok(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            length: metadata.len(),
        })
    }
}

impl Known {
    fn of(means: &Means) -> Self {
        match means {
            Means::Fence(fence) => Self::Fence(Arc::downgrade(fence)),
            Means::Epoch(engine, mapped) => Self::Epoch(engine.clone(), Arc::downgrade(mapped)),
        }
    }

    fn means(&self) -> Option<Means> {
        match self {
            Self::Fence(fence) => fence.upgrade().map(Means::Fence),
            Self::Epoch(engine, mapped) => {
                let mapped = mapped.upgrade()?;
                Some(Means::Epoch(engine.clone(), mapped))
            }
        }
    }

    fn is_used(&self) -> bool {
        match self {
            Self::Fence(fence) => fence.strong_count() > 0,
            Self::Epoch(_, mapped) => mapped.strong_count() > 0,
        }
    }
}

impl Shared {
    /// The code that was mapped from `file` for `engine`, if somebody uses it.
    pub(crate) fn code(&self, engine: &Engine, file: EntryFile) -> Option<Code> {
        let key = (file, engine.is_pooled());
        let means = self.known().get(&key)?.means()?;
        is_for(engine, &means).then(|| means.mapped().code().clone())
    }

    /// What stops the guests of the code that was mapped from `file` for `engine`: `made`, unless somebody
    /// mapped it at the same time and was faster. That is the one to use then, with its code.
    pub(crate) fn means(&self, engine: &Engine, file: EntryFile, made: Means) -> Means {
        let mut known = self.known();
        let key = (file, engine.is_pooled());
        if let Some(means) = known.get(&key).and_then(Known::means)
            && is_for(engine, &means)
        {
            return means;
        }
        known.retain(|_, known| known.is_used());
        known.insert(key, Known::of(&made));
        made
    }

    /// Whole after every statement that holds the lock.
    fn known(&self) -> MutexGuard<'_, HashMap<(EntryFile, bool), Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_for(engine: &Engine, means: &Means) -> bool {
    wasmtime::Engine::same(means.mapped().code().engine(), engine.wasmtime())
}
