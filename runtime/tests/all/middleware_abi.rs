//! Functions of the ABI `http_handler` that ask about a request and change it, each once.

use std::io::Write as _;

use crate::fixture::Fixture;
use crate::http::Client;
use crate::middleware::{run, upstream};

/// Tells the upstream in headers of its own what it was told; 1,024 is where it has room.
const GUEST: &str = r#"(module
    (import "http_handler" "log_enabled" (func $enabled (param i32) (result i32)))
    (import "http_handler" "get_method" (func $method (param i32 i32) (result i32)))
    (import "http_handler" "set_method" (func $set_method (param i32 i32)))
    (import "http_handler" "get_protocol_version" (func $protocol (param i32 i32) (result i32)))
    (import "http_handler" "get_source_addr" (func $source (param i32 i32) (result i32)))
    (import "http_handler" "get_header_values" (func $values (param i32 i32 i32 i32 i32) (result i64)))
    (import "http_handler" "set_header_value" (func $set (param i32 i32 i32 i32 i32)))
    (import "http_handler" "add_header_value" (func $add (param i32 i32 i32 i32 i32)))
    (import "http_handler" "remove_header" (func $remove (param i32 i32 i32)))
    (memory (export "memory") 1)
    (data (i32.const 0) "x-method") (data (i32.const 16) "x-protocol") (data (i32.const 32) "x-source")
    (data (i32.const 48) "x-many") (data (i32.const 64) "x-gone") (data (i32.const 80) "x-values")
    (data (i32.const 96) "PUT") (data (i32.const 112) "third")
    (func $tell (param $name i32) (param $length i32) (param $size i32)
        (call $set (i32.const 0) (local.get $name) (local.get $length) (i32.const 1024) (local.get $size)))
    (func (export "handle_request") (result i64)
        ;; Information is logged, details (-1) are not.
        (if (i32.eqz (call $enabled (i32.const 0))) (then unreachable))
        (if (call $enabled (i32.const -1)) (then unreachable))
        (call $tell (i32.const 0) (i32.const 8) (call $method (i32.const 1024) (i32.const 100)))
        (call $set_method (i32.const 96) (i32.const 3))
        (call $tell (i32.const 16) (i32.const 10) (call $protocol (i32.const 1024) (i32.const 100)))
        (call $tell (i32.const 32) (i32.const 8) (call $source (i32.const 1024) (i32.const 100)))
        ;; Two of 13 bytes, each with a NUL at its end; the first of these is made a comma.
        (if (i64.ne (call $values (i32.const 0) (i32.const 48) (i32.const 6) (i32.const 1024) (i32.const 100))
                    (i64.const 0x20000000d))
            (then unreachable))
        (i32.store8 (i32.const 1029) (i32.const 44))
        (call $tell (i32.const 80) (i32.const 8) (i32.const 12))
        (call $add (i32.const 0) (i32.const 48) (i32.const 6) (i32.const 112) (i32.const 5))
        (call $remove (i32.const 0) (i32.const 64) (i32.const 6))
        (i64.const 1))
    (func (export "handle_response") (param i32 i32)))"#;

#[test]
fn a_request_is_asked_about_and_changed() {
    let fixture = Fixture::new();
    let (address, running) = run(&fixture, GUEST, upstream());
    let mut client = Client::new(address);
    let own = client.0.get_ref().local_addr().unwrap();
    let request =
        b"DELETE / HTTP/1.1\r\nHost: test\r\nx-many: first\r\nx-many: second\r\nx-gone: 1\r\n\r\n";
    client.0.get_mut().write_all(request).unwrap();
    let (status, seen) = client.answer();
    assert_eq!(status, 200, "{seen}");
    let mut lines = seen.trim_end().split("\r\n");
    assert_eq!(lines.next(), Some("PUT / HTTP/1.1"));
    let told: Vec<_> = lines.filter(|line| line.starts_with("x-")).collect();
    let source = format!("x-source: {own}");
    for line in [
        "x-method: DELETE",
        "x-protocol: HTTP/1.1",
        &source,
        "x-values: first,second",
    ] {
        assert!(told.contains(&line), "{line}: {seen}");
    }
    let many: Vec<_> = told
        .iter()
        .filter(|line| line.starts_with("x-many"))
        .collect();
    assert_eq!(
        many,
        [&"x-many: first", &"x-many: second", &"x-many: third"]
    );
    assert!(!seen.contains("x-gone"), "{seen}");
    drop(running.kill());
}
