//! Text to work on, the same in every run.

const WORDS: [&str; 16] = [
    "request", "GET", "error", "timeout", "10.0.3.17", "user@example.com", "2026-03-01", "container", "wasm", "POST", "ok",
    "status=503", "latency=12.5ms", "index.html", "\u{e9}t\u{e9}", "node-7",
];

/// Lines of words, about `length` bytes of them.
pub fn text(length: usize) -> String {
    let mut text = String::with_capacity(length + 32);
    let mut state = 88_172_645_463_325_252_u64;
    while text.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        text.push_str(WORDS[(state >> 60) as usize]);
        text.push(if state & 7 == 0 { '\n' } else { ' ' });
    }
    text
}
