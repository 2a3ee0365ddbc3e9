//! An instance of a service's component, and the request that it is asked.
//!
//! One of WASI 0.2 answers one request. One of WASI 0.3 is made to be asked again: after an answer it is kept, for as
//! long as a connection may be idle, and asked next before others are made. It has one request at a time, so that what
//! goes wrong in one, or takes too long, is no other's.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::uri::{Authority, Scheme};
use http::{Request, Response, header};
use hyper::body::Incoming;
use tokio::sync::oneshot;
use tokio::time::Instant;
use wasmtime::component::{Accessor, Resource};
use wasmtime::{Engine, Store};
use wasmtime_wasi_http::handler::ProxyPre;
use wasmtime_wasi_http::p2::bindings::http::types::Scheme as SchemeOf0_2;
use wasmtime_wasi_http::p2::bindings::{Proxy, ProxyPre as ProxyPreOf0_2};
use wasmtime_wasi_http::p2::types::{HostIncomingRequest, HostResponseOutparam};
use wasmtime_wasi_http::p3::Request as RequestOf0_3;
use wasmtime_wasi_http::p3::bindings::{Service, ServicePre};
use wasmtime_wasi_http::{FieldMap, WasiBody, WasiHttpView as _};

use super::worker::Local;
use crate::Interrupter;
use crate::artifact::store;
use crate::host::Host;
use crate::middleware::{Asked, Made, Program};

/// How many requests an instance of WASI 0.3 answers at most: what leaks in it is gone then. The number of `wasmtime serve`.
const REQUESTS: u32 = 128;
/// How many instances each worker keeps at most.
const KEPT: usize = 16;

/// What answers requests.
pub(crate) enum Handler {
    Component(ProxyPre<Host>),
    Middleware(Arc<Program>),
}

/// What the guest answers, or the error code that it answers with.
pub(super) type Answer = Result<Response<WasiBody>, String>;

/// Why a request is asked of nobody.
pub(super) enum Refused {
    /// It is none that WASI could carry.
    Request,
    /// The host's fault.
    Host(wasmtime::Error),
}

/// An instance of the service, made or to be made.
pub(super) struct Instance {
    store: Store<Host>,
    interrupter: Interrupter,
    /// If it is one of WASI 0.3, and was asked before.
    service: Option<Service>,
    /// If it is middleware, and was asked before.
    made: Option<Made>,
    asked: u32,
    /// Where the answer of one of WASI 0.3 goes; one of 0.2 has that in its store.
    answered: Option<oneshot::Sender<Answer>>,
}

/// What an instance is asked.
pub(super) enum Call {
    Of0_2 {
        program: ProxyPreOf0_2<Host>,
        request: Resource<HostIncomingRequest>,
        out: Resource<HostResponseOutparam>,
    },
    Of0_3 {
        program: ServicePre<Host>,
        request: Box<Request<Incoming>>,
        authority: Authority,
    },
    Middleware(Asked),
}

impl Instance {
    fn new(local: &Local, engine: &Engine, of_module: bool) -> Result<Self, Refused> {
        let template = &local.server.template;
        let host = template.host(of_module);
        let host = host.map_err(|error| Refused::Host(error.into()))?;
        let interrupter = local.interrupter.below();
        Ok(Self {
            store: store(engine, host, &template.guest, &interrupter),
            interrupter,
            service: None,
            made: None,
            asked: 0,
            answered: None,
        })
    }

    /// One that was asked before, or else a new one, whose answer goes to `answered`.
    fn again(
        local: &Local,
        engine: &Engine,
        of_module: bool,
        answered: oneshot::Sender<Answer>,
    ) -> Result<Self, Refused> {
        let kept = local.kept.take();
        let mut instance = kept.map_or_else(|| Self::new(local, engine, of_module), Ok)?;
        instance.answered = Some(answered);
        Ok(instance)
    }

    /// One for `request`, how it is asked, and where its answer comes.
    pub(super) fn of(
        local: &Local,
        request: Request<Incoming>,
    ) -> Result<(Self, Call, oneshot::Receiver<Answer>), Refused> {
        let (answered, answer) = oneshot::channel();
        match &local.server.handler {
            Handler::Component(ProxyPre::P2(program)) => {
                let mut instance = Self::new(local, program.engine(), false)?;
                let mut http = instance.store.data_mut().http();
                // It fails only for a request that says no host, or not in letters.
                let request = http.new_incoming_request(SchemeOf0_2::Http, request);
                let request = request.map_err(|_| Refused::Request)?;
                let out = http.new_response_outparam_from_callback(move |answer| {
                    // The client may be gone.
                    drop(answered.send(answer.map_err(|code| format!("{code:?}"))));
                });
                let call = Call::Of0_2 {
                    program: program.clone(),
                    request,
                    out: out.map_err(Refused::Host)?,
                };
                Ok((instance, call, answer))
            }
            Handler::Component(ProxyPre::P3(program)) => {
                let call = Call::Of0_3 {
                    program: program.clone(),
                    authority: authority(&request).ok_or(Refused::Request)?,
                    request: Box::new(request),
                };
                let instance = Self::again(local, program.engine(), false, answered)?;
                Ok((instance, call, answer))
            }
            Handler::Middleware(program) => {
                let instance = Self::again(local, program.engine(), true, answered)?;
                let call = Call::Middleware(Asked {
                    program: Arc::clone(program),
                    request: Box::new(request),
                    connections: Rc::clone(&local.upstream),
                    stderr: local.server.guest().stderr.clone(),
                });
                Ok((instance, call, answer))
            }
        }
    }

    /// Stops it.
    pub(super) fn interrupter(&self) -> &Interrupter {
        &self.interrupter
    }

    /// Asks it. Who waits for an answer, and gets none, hears of that when this is dropped.
    pub(super) async fn ask(&mut self, call: Call) -> wasmtime::Result<()> {
        let store = &mut self.store;
        match call {
            Call::Middleware(asked) => {
                self.asked += 1;
                asked.ask(store, &mut self.made, &mut self.answered).await
            }
            Call::Of0_2 {
                program,
                request,
                out,
            } => {
                let proxy: Proxy = program.instantiate_async(&mut *store).await?;
                let handler = proxy.wasi_http_incoming_handler();
                handler.call_handle(store, request, out).await
            }
            Call::Of0_3 {
                program,
                request,
                authority,
            } => {
                let service = match &mut self.service {
                    Some(service) => service,
                    none @ None => none.insert(program.instantiate_async(&mut *store).await?),
                };
                self.asked += 1;
                let answered = &mut self.answered;
                let concurrent = store.run_concurrent(async |accessor| {
                    handle(accessor, service, (*request, authority), answered).await?;
                    // What it does after its answer, and the answer's body.
                    poll_fn(|cx| accessor.poll_no_interesting_tasks(cx)).await;
                    Ok(())
                });
                concurrent.await?
            }
        }
    }

    /// Whether it can be asked again.
    fn is_fresh(&self) -> bool {
        (self.service.is_some() || self.made.is_some()) && self.asked < REQUESTS
    }
}

/// Asks an instance of WASI 0.3, and passes its answer on.
async fn handle(
    accessor: &Accessor<Host>,
    service: &Service,
    (request, authority): (Request<Incoming>, Authority),
    answered: &mut Option<oneshot::Sender<Answer>>,
) -> wasmtime::Result<()> {
    let (parts, body) = request.into_parts();
    let (request, taken) = accessor.with(|mut store| {
        RequestOf0_3::new(
            parts.method,
            Some(Scheme::HTTP),
            Some(authority),
            parts.uri.into_parts().path_and_query,
            FieldMap::new_immutable(store.data_mut().http().hooks, parts.headers),
            None,
            body,
        )
    });
    let answer = match service.handle(accessor, request).await? {
        Ok(response) => Ok(accessor.with(|store| response.into_http(store, taken))?),
        Err(code) => Err(format!("{code:?}")),
    };
    if let Some(answered) = answered.take() {
        // The client may be gone.
        drop(answered.send(answer));
    }
    Ok(())
}

/// The host that a request is for.
fn authority(request: &Request<Incoming>) -> Option<Authority> {
    let said = request.headers().get(header::HOST);
    let host = || Authority::try_from(said?.as_bytes()).ok();
    request.uri().authority().cloned().or_else(host)
}

/// Instances that wait to be asked again, the one that was asked last on top.
#[derive(Default)]
pub(super) struct Kept {
    instances: RefCell<Vec<(Instance, Instant)>>,
    /// Whether [`Self::let_go`] is under way.
    watched: Cell<bool>,
}

impl Kept {
    fn take(&self) -> Option<Instance> {
        let last = self.instances.borrow_mut().pop();
        last.map(|(instance, _)| instance)
    }

    /// Keeps `instance` if it can be asked again. Whether [`Self::let_go`] is to be called now.
    pub(super) fn keep(&self, instance: Instance) -> bool {
        let mut instances = self.instances.borrow_mut();
        if !instance.is_fresh() || instances.len() >= KEPT {
            return false;
        }
        instances.push((instance, Instant::now()));
        !self.watched.replace(true)
    }

    /// Drops those that nobody has asked for `time`, until there are none.
    pub(super) async fn let_go(&self, time: Duration) {
        loop {
            let oldest = self.instances.borrow().first().map(|(_, since)| *since);
            let Some(oldest) = oldest else {
                self.watched.set(false);
                return;
            };
            tokio::time::sleep_until(oldest + time).await;
            let mut instances = self.instances.borrow_mut();
            instances.retain(|(_, since)| since.elapsed() < time);
        }
    }
}
