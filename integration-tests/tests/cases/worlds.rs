//! What programs can import and be asked for: exports, servers, HTTP, configuration, and their options.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::thread::JoinHandle;

use anyhow::{Context as _, Result, ensure};
use integration_tests::containerd::Containerd;
use integration_tests::guests;
use integration_tests::image::Image;
use integration_tests::invocation::{Invocation, Output};
use integration_tests::run::Run;
use integration_tests::task::Task;

cases![
    an_export_is_called,
    an_export_that_is_not_there_is_refused,
    a_rust_server_listens_in_its_own_network,
    a_go_server_listens_in_its_own_network,
    an_address_that_is_taken_is_named,
    http_goes_out_through_the_containers_network,
    an_unanswered_request_is_killed,
    networks_are_narrowed,
    a_store_has_what_annotations_say,
    options_that_are_wrong_are_refused,
    wasi_0_3_has_to_be_asked_for,
    wasi_0_3_has_the_containers_files_and_streams,
    an_asynchronous_sleep_is_killed,
];

/// What our annotations begin with.
const OPTION: &str = "io.containerd.wasi.v1";

fn image(containerd: &Containerd, name: &str, app: Vec<u8>) -> Result<Image> {
    let image = Image::new(&format!("worlds-{name}:1"))
        .platform("wasi", "wasm")
        .file("/app.wasm", app)
        .entrypoint(["/app.wasm"]);
    containerd.import(&image)?;
    Ok(image)
}

fn run<'a>(containerd: &'a Containerd, guest: &str, id: &str) -> Result<Run<'a>> {
    let image = image(containerd, guest, guests::named(guest)?)?;
    Ok(containerd.run(&image, id))
}

fn library(containerd: &Containerd) -> Result<Image> {
    let wasm = wat::parse_str(
        r#"(module (memory (export "memory") 1)
        (global $made (mut i32) (i32.const 0))
        (func (export "_initialize") (global.set $made (i32.const 7)))
        (func (export "made") (result i32) (global.get $made)))"#,
    )?;
    image(containerd, "library", wasm)
}

fn an_export_is_called(containerd: &Containerd) -> Result<()> {
    let run = containerd.run(&library(containerd)?, "export");
    run.args(["/app.wasm#made"]).output()?.exited(7)?;
    let component = run_component(containerd, "export-component")?;
    let output = component
        .args(["/app.wasm#wasi:cli/run@0.2.0#run"])
        .output()?
        .success()?;
    ensure!(output.stdout == "hello from wasi\n", "{output}");
    Ok(())
}

fn run_component<'a>(containerd: &'a Containerd, id: &str) -> Result<Run<'a>> {
    run(containerd, "hello.component", id)
}

fn an_export_that_is_not_there_is_refused(containerd: &Containerd) -> Result<()> {
    let image = library(containerd)?;
    let output = containerd
        .run(&image, "no-export")
        .args(["/app.wasm#launch"])
        .output()?;
    output.refused("its export launch cannot be called")?;
    output.refused("exports that can be asked for: made")?;
    let output = containerd.run(&image, "no-start").output()?;
    output.refused("exports that can be asked for: made")
}

fn a_rust_server_listens_in_its_own_network(containerd: &Containerd) -> Result<()> {
    serves(containerd, "serve", "HELLO")
}

fn a_go_server_listens_in_its_own_network(containerd: &Containerd) -> Result<()> {
    serves(containerd, "serve-go", "go: hello")
}

/// Port 80 takes the right of root, which the guest has not.
fn serves(containerd: &Containerd, guest: &str, answer: &str) -> Result<()> {
    let image = Image::new(&format!("worlds-user-{guest}:1"))
        .platform("wasi", "wasm")
        .file("/app.wasm", guests::named(guest)?)
        .user("1000:1000");
    containerd.import(&image)?;
    let task = containerd
        .run(&image, &format!("listens-{guest}"))
        .annotation(&format!("{OPTION}.listen-tcp"), "0.0.0.0:80, 0.0.0.0:8080")
        .args(["/app.wasm", "4", "2"])
        .start()?;
    task.writes("serving 2")?;
    inside(&task, "ip link set lo up")?;
    let ask = "exec 3<>/dev/tcp/127.0.0.1/80; echo hello >&3; read -r line <&3; echo \"$line\"";
    for _ in 0..2 {
        let answered = inside(&task, ask)?;
        ensure!(answered.stdout.trim() == answer, "{answered}");
    }
    ensure!(task.wait()?.exit_status() == 0);
    task.reaches("STOPPED")?;
    task.delete()?;
    task.remove()
}

/// Runs a script in the network of the task.
fn inside(task: &Task<'_>, script: &str) -> Result<Output> {
    let pid = task.pid()?.to_string();
    Invocation::new("nsenter")
        .args(["-t", &pid, "--net", "bash", "-ec", script])
        .success()
}

fn an_address_that_is_taken_is_named(containerd: &Containerd) -> Result<()> {
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let address = taken.local_addr()?.to_string();
    let output = run(containerd, "serve", "taken")?
        .flag("--net-host")
        .annotation(&format!("{OPTION}.listen-tcp"), &address)
        .output()?;
    output.refused(&format!("cannot listen at {address}"))
}

/// Answers one HTTP request.
fn server() -> Result<(SocketAddr, JoinHandle<std::io::Result<()>>)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let answering = std::thread::spawn(move || {
        let (mut connection, _) = listener.accept()?;
        let count = connection.read(&mut [0; 4096])?;
        let length = if count > 0 { 5 } else { 0 };
        write!(
            connection,
            "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\nhello"
        )
    });
    Ok((address, answering))
}

fn http_goes_out_through_the_containers_network(containerd: &Containerd) -> Result<()> {
    let (address, answering) = server()?;
    let address = address.to_string();
    let args = ["/app.wasm", "http", &address, "/"];
    // The server is the host's, and the container has a network of its own, without any way out.
    let alone = run(containerd, "fetch", "fetches-alone")?.args(args);
    let output = alone.output()?;
    ensure!(output.status == 1, "{output}");
    ensure!(output.stderr.contains("error: "), "{output}");
    let output = run(containerd, "fetch", "fetches")?
        .flag("--net-host")
        .args(args)
        .output()?
        .success()?;
    ensure!(output.stdout == "sent\nstatus 200\nhello", "{output}");
    answering.join().ok().context("the server panicked")??;
    Ok(())
}

fn an_unanswered_request_is_killed(containerd: &Containerd) -> Result<()> {
    let silent = TcpListener::bind("127.0.0.1:0")?;
    let address = silent.local_addr()?.to_string();
    let task = run(containerd, "fetch", "fetches-for-ever")?
        .flag("--net-host")
        .args(["/app.wasm", "http", &address, "/"])
        .start()?;
    task.writes("sent")?;
    let exit = task.end()?;
    ensure!(exit.exit_status() == 137, "{exit}");
    Ok(())
}

fn networks_are_narrowed(containerd: &Containerd) -> Result<()> {
    let (address, answering) = server()?;
    let port = address.port();
    let address = address.to_string();
    let with = |id: &str, guest, allowed: &str, args: &[&str]| {
        let args: Vec<_> = ["/app.wasm"].iter().chain(args).copied().collect();
        run(containerd, guest, id)?
            .flag("--net-host")
            .annotation(&format!("{OPTION}.allow-net"), allowed)
            .args(args)
            .output()
    };
    let http = ["http", &address, "/"];
    for (id, allowed, told) in [
        ("http-none", "none", "HttpRequestDenied"),
        ("http-others", "10.0.0.0/8", "DestinationIpProhibited"),
        ("http-port", "127.0.0.1:1", "DestinationIpProhibited"),
    ] {
        with(id, "fetch", allowed, &http)?.refused(told)?;
        let socket = with(&format!("socket-{id}"), "connect", allowed, &[&address])?;
        socket.refused("PermissionDenied")?;
    }
    let allowed = format!("10.0.0.0/8, 127.0.0.1:{port}");
    let output = with("http-allowed", "fetch", &allowed, &http)?.success()?;
    ensure!(output.stdout.ends_with("hello"), "{output}");
    answering.join().ok().context("the server panicked")??;
    Ok(())
}

fn a_store_has_what_annotations_say(containerd: &Containerd) -> Result<()> {
    let output = run(containerd, "config", "config")?
        .annotation(&format!("{OPTION}.config.colour"), "blue")
        .annotation(&format!("{OPTION}.config.db.host"), "db")
        .args(["/app.wasm", "colour", "size"])
        .output()?
        .success()?;
    let expected = "colour: Some(\"blue\")\nsize: None\nall: colour=blue\nall: db.host=db\n";
    ensure!(output.stdout == expected, "{output}");
    Ok(())
}

fn options_that_are_wrong_are_refused(containerd: &Containerd) -> Result<()> {
    for (id, option, value, told) in [
        ("bad-name", "listen-udp", "0.0.0.0:80", "listen-udp"),
        ("bad-listen", "listen-tcp", "8080", "no address with a port"),
        (
            "bad-net",
            "allow-net",
            "example.com",
            "no address and no network",
        ),
        ("bad-switch", "wasi-tls", "yes", "write on or off"),
    ] {
        let output = run(containerd, "hello", id)?
            .annotation(&format!("{OPTION}.{option}"), value)
            .output()?;
        output.refused(told)?;
    }
    let output = run_component(containerd, "listens-component")?
        .annotation(&format!("{OPTION}.listen-tcp"), "0.0.0.0:8080")
        .output()?;
    output.refused("it is a component, which opens its own sockets")
}

/// The option that turns WASI 0.3 on.
const ASYNCHRONOUS: &str = "io.containerd.wasi.v1.wasi-0.3";

fn wasi_0_3_has_to_be_asked_for(containerd: &Containerd) -> Result<()> {
    let output = run(containerd, "streams_p3", "old")?
        .args(["/app.wasm", "exit", "3"])
        .output()?;
    output.refused("the option wasi-0.3 turns it on")?;
    output.refused(ASYNCHRONOUS)?;
    run(containerd, "streams_p3", "new")?
        .annotation(ASYNCHRONOUS, "on")
        .args(["/app.wasm", "exit", "3"])
        .output()?
        .exited(3)?;
    // A program of another world runs all the same.
    let output = run_component(containerd, "old-on-new")?
        .annotation(ASYNCHRONOUS, "on")
        .output()?
        .success()?;
    ensure!(output.stdout == "hello from wasi\n", "{output}");
    Ok(())
}

fn wasi_0_3_has_the_containers_files_and_streams(containerd: &Containerd) -> Result<()> {
    let name = "worlds-paths-p3:1";
    let image = Image::new(name)
        .platform("wasi", "wasm")
        .file("/app.wasm", guests::named("paths_p3")?)
        .file("/etc/name", "image")
        .entrypoint(["/app.wasm"]);
    containerd.import(&image)?;
    let steps = [
        ("read /etc/name", "image"),
        ("symlink /etc/name /link", "ok"),
        ("read /link", "image"),
        ("write /../made text", "ok"),
        ("stat /made", "file 4"),
        ("read /../../../../etc/passwd", "No such file or directory"),
        // No procfs under any name.
        ("list /proc", ""),
    ];
    let args = std::iter::once("/app.wasm").chain(steps.iter().map(|(step, _)| *step));
    let output = containerd
        .run(&image, "paths-p3")
        .annotation(ASYNCHRONOUS, "on")
        .args(args)
        .output()?
        .success()?;
    let found: Vec<&str> = output.stdout.lines().collect();
    let wanted: Vec<&str> = steps.iter().map(|(_, wanted)| *wanted).collect();
    ensure!(found == wanted, "{output}");
    Ok(())
}

fn an_asynchronous_sleep_is_killed(containerd: &Containerd) -> Result<()> {
    let task = run(containerd, "streams_p3", "sleeps-p3")?
        .annotation(ASYNCHRONOUS, "on")
        .args(["/app.wasm", "sleep"])
        .start()?;
    task.writes("sleeping")?;
    let exit = task.end()?;
    ensure!(exit.exit_status() == 137, "{exit}");
    Ok(())
}
