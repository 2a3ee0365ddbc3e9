//! Room for the instances of services, made once and used again.
//!
//! An instance for each request means memories, tables and a stack for each, and most of what a small request costs is to
//! map and unmap them. A pool has them mapped already: an engine of its own, on which wasmtime takes them from slots.
//!
//! When wasmtime has no slot left it fails; so nobody makes an instance who has not [reserved](Pool::reserve) what all its
//! instances together can need. Who finds no room is served by the engine that maps on demand.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use wasmtime::PoolingAllocationConfig;
use wasmtime::component::Component;

use crate::{Engine, Error};

/// How many instances there can be at once, of all services.
const STACKS: u32 = 1024;
/// How many memories and how many tables. Each memory takes 4 GiB of addresses, of which a process has 128 TiB.
const MEMORIES: u32 = 2048;
/// How many of a table's elements there is room for: the default of wasmtime.
const ELEMENTS: usize = 20_000;
/// How many memories and tables one module may have.
const PER_MODULE: u32 = 16;

/// In bytes: more than an instance's own data can have. Wasmtime rounds it up.
const UNBOUNDED: usize = 1 << 40;

/// The engine of services. Making it takes some milliseconds and 20 MiB of addresses for each instance, but no memory.
#[derive(Debug, Clone)]
pub struct Pool {
    engine: Engine,
    free: Arc<Mutex<Slots>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Slots {
    stacks: usize,
    memories: usize,
    tables: usize,
}

impl Slots {
    const ALL: Self = Self {
        stacks: STACKS as usize,
        memories: MEMORIES as usize,
        tables: MEMORIES as usize,
    };

    /// What an instance of `component` needs; unknown for one that is given modules to instantiate.
    fn of(component: &Component) -> Option<Self> {
        let needed = component.resources_required()?;
        Some(Self {
            stacks: 1,
            // And one for the heap of collected values, which a component may have beside.
            memories: needed.num_memories as usize + 1,
            tables: needed.num_tables as usize,
        })
    }

    fn times(self, count: usize) -> Self {
        Self {
            stacks: self.stacks.saturating_mul(count),
            memories: self.memories.saturating_mul(count),
            tables: self.tables.saturating_mul(count),
        }
    }

    /// What is left without `other`, if there is so much.
    fn without(self, other: Self) -> Option<Self> {
        Some(Self {
            stacks: self.stacks.checked_sub(other.stacks)?,
            memories: self.memories.checked_sub(other.memories)?,
            tables: self.tables.checked_sub(other.tables)?,
        })
    }
}

impl Pool {
    /// Makes it.
    ///
    /// # Errors
    ///
    /// [`Error::Engine`] when the host does not grant the addresses (`ulimit -v`), or cannot run wasmtime.
    pub fn new() -> Result<Self, Error> {
        let mut slots = PoolingAllocationConfig::new();
        slots
            .total_stacks(STACKS)
            .total_memories(MEMORIES)
            .total_tables(MEMORIES)
            .total_gc_heaps(STACKS)
            .table_elements(ELEMENTS)
            .max_memories_per_module(PER_MODULE)
            .max_tables_per_module(PER_MODULE)
            // These are counted, and take no room before they are there.
            .total_component_instances(u32::MAX)
            .total_core_instances(u32::MAX)
            .max_component_instance_size(UNBOUNDED)
            .max_core_instance_size(UNBOUNDED);
        Ok(Self {
            engine: Engine::pooled(slots)?,
            free: Arc::new(Mutex::new(Slots::ALL)),
        })
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Keeps room for `count` instances of `component` at once, if there is so much.
    pub(crate) fn reserve(&self, component: &Component, count: usize) -> Option<Reserved> {
        let slots = Slots::of(component)?.times(count);
        let mut free = self.free();
        *free = free.without(slots)?;
        Some(Reserved {
            pool: self.clone(),
            slots,
        })
    }

    /// Whole after every statement that holds the lock.
    fn free(&self) -> MutexGuard<'_, Slots> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Room that is nobody else's, until it is dropped.
#[derive(Debug)]
pub(crate) struct Reserved {
    pool: Pool,
    slots: Slots,
}

impl Drop for Reserved {
    fn drop(&mut self) {
        let mut free = self.pool.free();
        free.stacks += self.slots.stacks;
        free.memories += self.slots.memories;
        free.tables += self.slots.tables;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_given_while_there_is_all_of_it() {
        let one = Slots {
            stacks: 1,
            memories: 2,
            tables: 3,
        };
        let count = Slots::ALL.tables / 3;
        let left = Slots::ALL.without(one.times(count)).unwrap();
        assert_eq!(left.tables, Slots::ALL.tables - 3 * count);
        assert_eq!(left.stacks, Slots::ALL.stacks - count);
        assert_eq!(Slots::ALL.without(one.times(count + 1)), None);
        assert_eq!(Slots::ALL.without(one.times(usize::MAX)), None);
    }
}
