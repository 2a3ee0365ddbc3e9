//! `exit CODE`: exits with CODE.

fn main() {
    let code = std::env::args().nth(1).expect("usage: exit CODE");
    std::process::exit(code.parse().expect("CODE is a number"));
}
