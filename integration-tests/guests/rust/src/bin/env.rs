//! Prints what it was started with: `arg: ARG` for each argument (the program's name is the first),
//! `env: NAME=VALUE` sorted by name, `cwd: PATH`.

use std::env;

fn main() {
    for arg in env::args() {
        println!("arg: {arg}");
    }
    let mut vars: Vec<_> = env::vars().collect();
    vars.sort();
    for (name, value) in vars {
        println!("env: {name}={value}");
    }
    match env::current_dir() {
        Ok(path) => println!("cwd: {}", path.display()),
        Err(error) => println!("cwd: error: {error}"),
    }
}
