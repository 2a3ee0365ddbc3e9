//! Room for the instances of services.

use wasi_runtime::Pool;

use crate::fixture::{Fixture, args};
use crate::http::{get, serve_this, service};

#[test]
fn a_pool_has_room_for_so_many() {
    let fixture = Fixture::new();
    let handler = fixture.real("handler.wasm");
    let cache = fixture.open_cache().unwrap();
    let pool = Pool::new().unwrap();
    let pooled = |requests| cache.pooled(&pool, &handler, requests).unwrap();
    let first = pooled(500).expect("room");
    assert!(pooled(1000).is_none(), "more than is left");
    drop(first);
    assert!(pooled(500).is_some(), "it was given back");
    // Without a room of its own it answers the same.
    let (address, service) = service(1);
    let running = serve_this(&handler, service, args(["handler"]));
    assert_eq!(get(address, "/hello").0, 200);
    drop(running.kill());
    let other = fixture.asynchronous("handler_p3.wasm");
    assert!(cache.pooled(&pool, &other, 1).unwrap().is_none());
    let module = fixture.real("hello.wasm");
    assert!(cache.pooled(&pool, &module, 1).unwrap().is_none());
}
