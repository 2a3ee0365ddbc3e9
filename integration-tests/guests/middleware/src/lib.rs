//! Middleware before a server (http-wasm.io, "HTTP Handler ABI"); the path says what it does:
//!
//! | path | |
//! |---|---|
//! | `/own` | answers itself, with its configuration and the variable `GREETING` |
//! | `/trap` | gets no answer |
//! | another | the upstream is asked for `/hello`; its answer has the header `x-context` |
//!
//! It prints each path.

#[link(wasm_import_module = "http_handler")]
unsafe extern "C" {
    fn enable_features(features: u32) -> u32;
    fn get_config(at: *mut u8, limit: u32) -> u32;
    fn get_uri(at: *mut u8, limit: u32) -> u32;
    fn set_uri(at: *const u8, length: u32);
    fn write_body(kind: u32, at: *const u8, length: u32);
    fn set_header_value(kind: u32, name: *const u8, length: u32, value: *const u8, of: u32);
}

const BUFFER_RESPONSE: u32 = 2;
const RESPONSE: u32 = 1;
/// What `handle_response` is to get.
const CONTEXT: u32 = 7;

/// What one of the functions that fill a buffer says.
fn said(by: unsafe extern "C" fn(*mut u8, u32) -> u32) -> String {
    let mut buffer = vec![0; 1024];
    // SAFETY: the buffer is as long as it is said to be.
    let length = unsafe { by(buffer.as_mut_ptr(), 1024) };
    buffer.truncate(length as usize);
    String::from_utf8(buffer).expect("text")
}

/// 1 in the lower half passes the request on; the upper half is the context.
#[unsafe(no_mangle)]
pub extern "C" fn handle_request() -> u64 {
    let path = said(get_uri);
    println!("asked for {path}");
    match path.as_str() {
        "/own" => {
            let greeting = std::env::var("GREETING").unwrap_or_default();
            let text = format!("{} {greeting}\n", said(get_config));
            // SAFETY: the text is as long as it is said to be.
            unsafe { write_body(RESPONSE, text.as_ptr(), text.len() as u32) };
            0
        }
        "/trap" => panic!("as it was asked to"),
        _ => {
            let path = "/hello";
            // SAFETY: the path is as long as it is said to be.
            unsafe {
                enable_features(BUFFER_RESPONSE);
                set_uri(path.as_ptr(), path.len() as u32);
            }
            u64::from(CONTEXT) << 32 | 1
        }
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn handle_response(context: u32, _failed: u32) {
    let (name, value) = ("x-context", context.to_string());
    // SAFETY: both are as long as they are said to be.
    unsafe {
        set_header_value(
            RESPONSE,
            name.as_ptr(),
            name.len() as u32,
            value.as_ptr(),
            value.len() as u32,
        );
    }
}
