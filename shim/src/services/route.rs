//! Which requests are for Linux containers: those go to the shim that runs them, undecoded but for the id,
//! and its answers come back as they are. All others are this shim's to answer.

use async_trait::async_trait;
use containerd_shim_protos::api;
use protobuf::Message;
use ttrpc::r#async::{MethodHandler, Service, TtrpcContext};
use ttrpc::proto::{Code, Request, Response, ResponseInit};

use crate::containers::Containers;
use crate::runc::container::exec_of;

struct Routed {
    own: Box<dyn MethodHandler + Send + Sync>,
    containers: Containers,
}

/// `service`, a Task service, with the requests for Linux containers taken out.
pub(super) fn route(service: Service, containers: &Containers) -> Service {
    let methods = service.methods.into_iter().map(|(name, own)| {
        let routed: Box<dyn MethodHandler + Send + Sync> = Box::new(Routed {
            own,
            containers: containers.clone(),
        });
        (name, routed)
    });
    Service {
        methods: methods.collect(),
        streams: service.streams,
    }
}

#[async_trait]
impl MethodHandler for Routed {
    async fn handler(&self, ctx: TtrpcContext, request: Request) -> ttrpc::Result<Response> {
        let about_the_shim = matches!(request.method.as_str(), "Create" | "Connect" | "Shutdown");
        let linux = if about_the_shim {
            None
        } else {
            self.containers.linux(&id(&request.payload))
        };
        let Some(container) = linux else {
            return self.own.handler(ctx, request).await;
        };
        let answer = if request.method == "Delete" && exec_of(&request).is_none() {
            let containers = self.containers.clone();
            // To its end, also when nobody waits any more: then the id is free.
            let deleted = tokio::spawn(async move {
                let answer = container.forward(request).await;
                if answer.is_ok() {
                    containers.forget_linux(&container).await;
                }
                answer
            });
            let lost = |_| ttrpc::Error::Others("the deletion panicked".to_owned());
            deleted.await.map_err(lost).flatten()
        } else {
            container.forward(request).await
        };
        Ok(answer.unwrap_or_else(|error| {
            Response::init_status(if let ttrpc::Error::RpcStatus(status) = error {
                status
            } else {
                ttrpc::get_status(
                    Code::UNAVAILABLE,
                    format!("the shim of Linux containers does not answer: {error}"),
                )
            })
        }))
    }
}

/// The container that a request is about: the first field in all of them.
fn id(payload: &[u8]) -> String {
    let request = api::ConnectRequest::parse_from_bytes(payload);
    request.map(|request| request.id).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_is_found_in_any_request() {
        let update = api::UpdateTaskRequest {
            id: "web".to_owned(),
            resources: protobuf::MessageField::some(protobuf::well_known_types::any::Any {
                value: vec![0xff; 9],
                ..Default::default()
            }),
            ..api::UpdateTaskRequest::default()
        };
        assert_eq!(id(&update.write_to_bytes().unwrap()), "web");
        let exec = api::DeleteRequest {
            id: "web".to_owned(),
            exec_id: "probe".to_owned(),
            ..api::DeleteRequest::default()
        };
        assert_eq!(id(&exec.write_to_bytes().unwrap()), "web");
        assert_eq!(id(b"\xff"), "");
    }
}
