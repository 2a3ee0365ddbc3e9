//! Prints one line and ends.

fn main() {
    println!("hello from wasi");
}
