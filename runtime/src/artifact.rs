//! Machine code, mapped from the cache and ready to be given guests.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use wasmtime::component::Component;
use wasmtime::{Module, Precompiled, Store};

use crate::filesystem::RESERVE;
use crate::host::Host;
use crate::interrupt::{Interrupter, Means};
use crate::limits::largest_transfer;
use crate::pool::{Pool, Reserved};
use crate::serve::Handler;
use crate::{Engine, Error, Guest, Prepared, component, faults, middleware, module};

/// A compiled program. Cloning shares the code.
#[derive(Clone)]
pub struct Artifact {
    engine: Engine,
    code: Code,
    means: Means,
    /// The SHA-256 of the wasm.
    sha256: [u8; 32],
    /// Room for a service's instances, if the engine is a pool's.
    room: Option<Arc<Reserved>>,
}

#[derive(Clone)]
pub(crate) enum Code {
    /// A core module for WASI 0.1.
    Module(Module),
    /// A component for WASI 0.2 or 0.3.
    Component(Component),
}

impl Code {
    /// The machine code.
    pub(crate) fn text(&self) -> &[u8] {
        match self {
            Self::Module(module) => module.text(),
            Self::Component(component) => component.text(),
        }
    }

    /// What it was mapped for.
    pub(crate) fn engine(&self) -> &wasmtime::Engine {
        match self {
            Self::Module(module) => module.engine(),
            Self::Component(component) => component.engine(),
        }
    }

    /// The whole artifact, an ELF file.
    #[allow(unsafe_code, reason = "wasmtime shows the image as pointers")]
    pub(crate) fn image(&self) -> &[u8] {
        let range = match self {
            Self::Module(module) => module.image_range(),
            Self::Component(component) => component.image_range(),
        };
        let len = range.end.addr() - range.start.addr();
        // SAFETY: the range is the image that the module or component keeps mapped, readable, and
        // unchanged since it was loaded (`Module::image_range`); the slice borrows it.
        unsafe { std::slice::from_raw_parts(range.start, len) }
    }
}

impl std::fmt::Debug for Artifact {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.code {
            Code::Module(_) => "Artifact::Module",
            Code::Component(_) => "Artifact::Component",
        })
    }
}

impl Artifact {
    pub(crate) fn new(engine: &Engine, means: Means, sha256: [u8; 32]) -> Self {
        Self {
            engine: engine.clone(),
            code: means.mapped().code().clone(),
            means,
            sha256,
            room: None,
        }
    }

    /// The same program on the engine of `pool`, with room for `requests` instances; `None` if it is none for that, or there
    /// is not so much room. `find` has the code for an engine.
    pub(crate) fn pooled(
        &self,
        pool: &Pool,
        requests: usize,
        find: impl FnOnce(&Engine, &[u8; 32]) -> Result<Option<Self>, Error>,
    ) -> Result<Option<Self>, Error> {
        let (Code::Component(component), true) = (
            &self.code,
            self.engine.settings() == pool.engine().settings(),
        ) else {
            return Ok(None);
        };
        let Some(room) = pool.reserve(component, requests) else {
            return Ok(None);
        };
        let pooled = find(pool.engine(), &self.sha256)?;
        Ok(pooled.map(|pooled| Self {
            room: Some(Arc::new(room)),
            ..pooled
        }))
    }
}

impl Code {
    /// Maps an artifact that this crate's compiler wrote and the cache's check found whole.
    ///
    /// The reason comes back as text: what does not load is compiled again, whatever it was.
    #[allow(unsafe_code, reason = "loading machine code cannot be safe in general")]
    pub(crate) fn map(engine: &Engine, file: &File) -> Result<Self, String> {
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let kind = wasmtime::Engine::detect_precompiled_file(&path)
            .map_err(|error| format!("{error:#}"))?
            .ok_or("it is no artifact of wasmtime")?;
        // SAFETY: `deserialize_file` executes what the file says, and maps it, so it wants (1) bytes
        // that wasmtime's own compiler wrote and (2) that nobody changes them afterwards. (1) The cache
        // checks that its folder is closed to everyone but this user, and the digest at the end of
        // the entry; nothing but `Cache::compile` writes there, from the output of the compile child;
        // an artifact that came in an image never gets here. (2) A file is mapped
        // after its last write and after it was made read-only, and from then on only ever renamed or
        // unlinked, which leaves the mapped inode alone.
        let code = unsafe {
            match kind {
                Precompiled::Module => {
                    Module::deserialize_file(engine.wasmtime(), &path).map(Self::Module)
                }
                Precompiled::Component => {
                    Component::deserialize_file(engine.wasmtime(), &path).map(Self::Component)
                }
            }
        };
        code.map_err(|error| format!("{error:#}"))
    }
}

impl Artifact {
    /// Whether it is HTTP middleware ([`Middleware`](crate::Middleware)), which is a service that has an upstream.
    #[must_use]
    pub fn is_middleware(&self, export: Option<&str>) -> bool {
        matches!(self.code, Code::Module(_)) && self.serves_http(export)
    }

    /// Whether it is a service, which answers HTTP requests and ends when it is told to, rather than a program that
    /// is called once: a component that exports `wasi:http/incoming-handler@0.2` and no `wasi:cli/run@0.2`, or the
    /// former and `export` names it (`wasi:http/incoming-handler`, with or without its version and `#handle`).
    #[must_use]
    pub fn serves_http(&self, export: Option<&str>) -> bool {
        match &self.code {
            Code::Module(module) => export.is_none() && middleware::serves(module),
            Code::Component(component) => component::serves(component, export),
        }
    }

    /// Links the program to what `guest` is given. Nothing of it runs yet.
    ///
    /// Has to be called where `/proc` is the host's, as the preopens are opened again through it.
    ///
    /// # Errors
    ///
    /// [`Error::Unresolved`], [`Error::Import`], [`Error::NoEntrypoint`] and [`Error::NoExport`] when the program is not
    /// one this engine can run, [`Error::NoSocket`] and [`Error::NoHandler`] when it serves HTTP and is not to, or the
    /// other way, [`Error::Nul`] and [`Error::Descriptor`] when `guest` cannot be given
    /// to it.
    pub fn prepare(&self, mut guest: Guest) -> Result<Prepared, Error> {
        if let (Code::Module(_), Some(cwd)) = (&self.code, &guest.cwd)
            && !guest.env.iter().any(|(name, _)| name == "PWD")
        {
            guest.env.push(("PWD".to_owned(), cwd.clone()));
        }
        let middleware = self.is_middleware(guest.export.as_deref());
        if (matches!(self.code, Code::Component(_)) || middleware) && !guest.listeners.is_empty() {
            return Err(Error::Listeners);
        }
        let interrupter = Interrupter::new(self.means.clone());
        let host = Host::new(&mut guest)?;
        match (&self.code, self.serves_http(guest.export.as_deref())) {
            (Code::Component(component), true) => {
                let service = guest.http.take().ok_or(Error::NoSocket)?;
                if service.middleware.is_some() {
                    return Err(Error::NoMiddleware);
                }
                let handler = component::link_service(
                    component,
                    &guest,
                    self.engine.settings().asynchronous,
                )?;
                let handler = Handler::Component(handler);
                let room = self.room.clone();
                return Prepared::service((service, room), handler, host, interrupter, guest);
            }
            (Code::Module(module), true) => {
                let mut service = guest.http.take().ok_or(Error::NoSocket)?;
                let given = service.middleware.take().ok_or(Error::NoUpstream)?;
                let program = middleware::Program::link(module, given)?;
                let handler = Handler::Middleware(Arc::new(program));
                return Prepared::service((service, None), handler, host, interrupter, guest);
            }
            (_, _) if guest.http.is_some() => return Err(Error::NoHandler),
            (Code::Component(_) | Code::Module(_), _) => {}
        }
        let mut store = store(self.engine.wasmtime(), host, &guest, &interrupter);
        let call = match &self.code {
            Code::Module(module) => module::link(module, &guest, &mut store)?,
            Code::Component(component) => {
                component::link(component, &guest, self.engine.settings().asynchronous)?
            }
        };
        Prepared::new(store, call, interrupter, guest)
    }
}

/// Where a guest lives, in which `interrupter` stops it.
pub(crate) fn store(
    engine: &wasmtime::Engine,
    host: Host,
    guest: &Guest,
    interrupter: &Interrupter,
) -> Store<Host> {
    let mut store = Store::new(engine, host);
    store.limiter(|host| &mut host.limiter);
    store.set_hostcall_fuel(largest_transfer(&guest.budget));
    // What components make themselves, beside what the host gives them, and as much.
    store.set_max_component_handles(guest.limits.handles.saturating_add(RESERVE));
    match interrupter.means() {
        Means::Fence(fence) => {
            faults::handle(&mut store, Arc::clone(fence), interrupter.switch());
        }
        Means::Epoch(..) => {
            store.set_epoch_deadline(1);
            store.epoch_deadline_async_yield_and_update(1);
        }
    }
    store
}
