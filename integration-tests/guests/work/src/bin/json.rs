//! Makes, writes and reads JSON.

use serde_json::{Value, json};

fn main() {
    let text = work_guests::text(1 << 20);
    let lines = text.lines().enumerate().map(|(number, line)| {
        let words: Vec<_> = line.split(' ').collect();
        json!({ "line": number, "share": number as f64 / 7.0, "words": words, "text": line })
    });
    let value = Value::Array(lines.collect());
    let mut written = value.to_string();
    for _ in 0..8 {
        let read: Value = serde_json::from_str(&written).expect("it was just written");
        written = serde_json::to_string_pretty(&read).expect("it is JSON");
    }
    println!("{}", written.len());
}
