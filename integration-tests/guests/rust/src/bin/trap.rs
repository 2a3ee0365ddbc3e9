//! Prints `about to trap`, then traps two named calls deep, so that a backtrace has something to tell.

fn main() {
    println!("about to trap");
    outer();
}

#[inline(never)]
fn outer() {
    inner();
    // Keeps the call above from becoming a jump that leaves no frame.
    std::hint::black_box(());
}

#[inline(never)]
fn inner() {
    core::arch::wasm32::unreachable();
}
