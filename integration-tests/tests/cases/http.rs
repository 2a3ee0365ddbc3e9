//! Components that serve HTTP: where they listen, what clients get, and how they end.

use std::fs::Permissions;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use anyhow::{Context as _, Result, anyhow, ensure};
use integration_tests::containerd::Containerd;
use integration_tests::guests;
use integration_tests::image::Image;
use integration_tests::invocation::{Invocation, Output};
use integration_tests::run::Run;
use integration_tests::task::Task;

cases![
    a_service_answers_as_soon_as_it_is_started,
    a_failed_request_is_logged_and_the_service_lives,
    a_service_of_wasi_0_3_is_asked_again,
    middleware_stands_before_an_upstream,
    middleware_is_configured_by_a_file,
    middleware_without_an_upstream_is_refused,
    a_variable_and_an_annotation_say_where,
    requests_are_logged_and_counted,
    term_lets_requests_finish,
    a_second_term_ends_at_once,
    a_service_that_does_not_finish_has_its_grace,
    other_programs_are_executed_beside_a_service,
    an_address_that_is_taken_is_named,
    options_without_a_service_are_refused,
];

/// What our annotations begin with.
const OPTION: &str = "io.containerd.wasi.v1";

/// The service, by a user who is nobody.
pub(crate) fn service<'a>(containerd: &'a Containerd, id: &str) -> Result<Run<'a>> {
    let image = Image::new(&format!("http-{id}:1"))
        .platform("wasi", "wasm")
        .file("/app.wasm", guests::named("handler")?)
        .file("/hello.wasm", guests::named("hello")?)
        .file("/greeting", "a file")
        .env(["GREETING=a variable"])
        .user("1000:1000")
        .entrypoint(["/app.wasm"]);
    containerd.import(&image)?;
    Ok(containerd.run(&image, id))
}

pub(crate) fn start<'a>(run: &Run<'a>) -> Result<Task<'a>> {
    let task = run.start()?;
    inside(&task, "ip link set lo up")?;
    Ok(task)
}

/// Runs a script in the network of the task.
pub(crate) fn inside(task: &Task<'_>, script: &str) -> Result<Output> {
    let pid = task.pid()?.to_string();
    Invocation::new("nsenter")
        .args(["-t", &pid, "--net", "bash", "-ec", script])
        .success()
}

/// The whole answer to a GET.
pub(crate) fn get(task: &Task<'_>, port: u16, path: &str) -> Result<String> {
    let script = format!(
        "exec 3<>/dev/tcp/127.0.0.1/{port}
         printf 'GET {path} HTTP/1.1\\r\\nHost: test\\r\\nConnection: close\\r\\n\\r\\n' >&3
         cat <&3"
    );
    Ok(inside(task, &script)?.stdout)
}

fn answers(task: &Task<'_>, port: u16, path: &str, status: u16, body: &str) -> Result<()> {
    let answer = get(task, port, path)?;
    let whole = answer.starts_with(&format!("HTTP/1.1 {status} ")) && answer.ends_with(body);
    ensure!(whole, "GET {path}: {answer}");
    Ok(())
}

fn a_service_answers_as_soon_as_it_is_started(containerd: &Containerd) -> Result<()> {
    let run = service(containerd, "serves")?.annotation(&format!("{OPTION}.config.key"), "value");
    let task = start(&run)?;
    answers(&task, 8080, "/hello", 200, "\r\n\r\nhello\n")?;
    task.writes("asked for hello")?;
    answers(&task, 8080, "/env?GREETING", 200, "a variable")?;
    answers(&task, 8080, "/file?/greeting", 200, "a file")?;
    answers(&task, 8080, "/config?key", 200, "Ok(Some(\"value\"))")?;
    answers(&task, 8080, "/fetch?127.0.0.1:8080", 200, "Ok(200)")?;
    task.pause()?;
    task.resume()?;
    answers(&task, 8080, "/count", 200, "0")?;
    let exit = task.end()?;
    ensure!(exit.exit_status() == 137, "{exit}");
    Ok(())
}

fn a_service_of_wasi_0_3_is_asked_again(containerd: &Containerd) -> Result<()> {
    let image = Image::new("http-asynchronous:1")
        .platform("wasi", "wasm")
        .file("/app.wasm", guests::named("handler_p3")?)
        .entrypoint(["/app.wasm"]);
    containerd.import(&image)?;
    let run = containerd.run(&image, "http-asynchronous");
    let run = run
        .annotation(&format!("{OPTION}.wasi-0.3"), "on")
        .memory(64 << 20);
    // One thread, and so one instance.
    let task = start(&run.flag("--cpus").flag("0.5"))?;
    answers(&task, 8080, "/hello", 200, "\r\n\r\nhello\n")?;
    task.writes("asked for hello")?;
    answers(&task, 8080, "/count", 200, "1")?;
    answers(&task, 8080, "/trap", 500, "\n")?;
    answers(&task, 8080, "/count", 200, "0")?;
    task.kill("TERM")?;
    ended(&task, 0)
}

/// Of the http-wasm ABI, by a user who is nobody.
fn middleware<'a>(containerd: &'a Containerd, id: &str) -> Result<Run<'a>> {
    let image = Image::new(&format!("http-{id}:1"))
        .platform("wasi", "wasm")
        .file("/app.wasm", guests::named("middleware")?)
        .env(["GREETING=a variable"])
        .user("1000:1000")
        .entrypoint(["/app.wasm"]);
    containerd.import(&image)?;
    Ok(containerd.run(&image, id))
}

fn middleware_stands_before_an_upstream(containerd: &Containerd) -> Result<()> {
    let run = middleware(containerd, "middleware")?
        .annotation(&format!("{OPTION}.http-upstream"), "http://127.0.0.1:3000")
        .annotation(&format!("{OPTION}.http-config"), "configured");
    let task = start(&run)?;
    answers(&task, 8080, "/own", 200, "configured a variable\n")?;
    task.writes("asked for /own")?;
    answers(&task, 8080, "/", 502, "")?;
    // Another container of the same network.
    let network = format!("network:/proc/{}/ns/net", task.pid()?);
    let run = service(containerd, "upstream")?
        .annotation(&format!("{OPTION}.http-listen"), "127.0.0.1:3000")
        .flag("--with-ns")
        .flag(&network);
    let upstream = run.start()?;
    let answer = get(&task, 8080, "/anything")?;
    let whole = answer.contains("x-context: 7\r\n") && answer.ends_with("hello\n");
    ensure!(whole, "{answer}");
    upstream.writes("asked for hello")?;
    answers(&task, 8080, "/trap", 500, "\n")?;
    task.writes("GET /trap: wasm trap: wasm `unreachable`")?;
    upstream.end()?;
    task.kill("TERM")?;
    ended(&task, 0)
}

/// By a volume that is written as the kubelet writes those of a ConfigMap, and with the rights of the container's user.
fn middleware_is_configured_by_a_file(containerd: &Containerd) -> Result<()> {
    let volume = tempfile::tempdir()?;
    let path = |name: &str| volume.path().join(name);
    std::fs::create_dir(path("..2026"))?;
    std::fs::write(path("..2026/rules"), "rules of a file")?;
    symlink("..2026", path("..data"))?;
    symlink("..data/rules", path("rules"))?;
    std::fs::write(path("secret"), "")?;
    std::fs::set_permissions(path("secret"), Permissions::from_mode(0o600))?;
    std::fs::set_permissions(volume.path(), Permissions::from_mode(0o755))?;
    let with = |id: &str, file: &str| -> Result<Run<'_>> {
        let run = middleware(containerd, id)?
            .bind(volume.path(), "/etc/middleware", "rbind:ro")
            .annotation(&format!("{OPTION}.http-upstream"), "http://127.0.0.1:3000");
        Ok(run.annotation(&format!("{OPTION}.http-config-file"), file))
    };
    let task = start(&with("configured", "/etc/middleware/rules")?)?;
    answers(&task, 8080, "/own", 200, "rules of a file a variable\n")?;
    task.end()?;
    for (id, file, reason) in [
        ("unconfigured", "/etc/middleware/none", "no such file"),
        ("secretive", "/etc/middleware/secret", "may not read it"),
    ] {
        let output = with(id, file)?.output()?;
        output.refused("io.containerd.wasi.v1.http-config-file")?;
        output.refused(reason)?;
        output.refused(file)?;
    }
    Ok(())
}

fn middleware_without_an_upstream_is_refused(containerd: &Containerd) -> Result<()> {
    let output = middleware(containerd, "stray")?.output()?;
    output.refused("io.containerd.wasi.v1.http-upstream")
}

fn a_failed_request_is_logged_and_the_service_lives(containerd: &Containerd) -> Result<()> {
    let run = service(containerd, "fails")?
        .memory(64 << 20)
        .annotation(&format!("{OPTION}.http-request-timeout"), "500ms");
    let task = start(&run)?;
    for (path, status, told) in [
        ("/trap", 500, "GET /trap: wasm trap: wasm `unreachable`"),
        (
            "/grow",
            500,
            "GET /grow: the guest reached its memory limit of 67108864 bytes",
        ),
        (
            "/spin",
            504,
            "GET /spin: the handler took longer than 500ms",
        ),
    ] {
        answers(&task, 8080, path, status, "\n")?;
        task.writes(told)?;
    }
    answers(&task, 8080, "/count", 200, "0")?;
    task.end().map(drop)
}

fn a_variable_and_an_annotation_say_where(containerd: &Containerd) -> Result<()> {
    let variable = "WASMTIME_HTTP_PROXY_SOCKET_ADDR";
    // A low port takes the right of root, which the guest has not.
    let run = service(containerd, "variable")?.env(variable, "127.0.0.1:80");
    let task = start(&run)?;
    answers(&task, 80, "/count", 200, "0")?;
    task.end()?;
    let run = service(containerd, "annotation")?
        .env(variable, "127.0.0.1:80")
        .annotation(&format!("{OPTION}.http-listen"), "127.0.0.1:81")
        .args(["/app.wasm#wasi:http/incoming-handler"]);
    let task = start(&run)?;
    answers(&task, 81, "/count", 200, "0")?;
    task.end().map(drop)
}

fn requests_are_logged_and_counted(containerd: &Containerd) -> Result<()> {
    let run = service(containerd, "watched")?
        .annotation(&format!("{OPTION}.http-access-log"), "on")
        .annotation(&format!("{OPTION}.http-metrics"), "127.0.0.1:9090");
    let task = start(&run)?;
    answers(&task, 8080, "/env?GREETING", 200, "a variable")?;
    task.writes("127.0.0.1 \"GET /env HTTP/1.1\" 200 10 0.")?;
    // Its line comes when it is counted.
    let metrics = get(&task, 9090, "/metrics")?;
    let counted = metrics.contains("wasi_http_requests_total{code=\"200\"} 1\n");
    ensure!(counted, "{metrics}");
    task.end().map(drop)
}

fn term_lets_requests_finish(containerd: &Containerd) -> Result<()> {
    let task = start(&service(containerd, "drains")?)?;
    std::thread::scope(|scope| {
        let slow = scope.spawn(|| answers(&task, 8080, "/sleep?1500", 200, "slept\n"));
        task.writes("sleeping")?;
        task.kill("TERM")?;
        slow.join().map_err(|_| anyhow!("the client panicked"))?
    })?;
    ended(&task, 0)
}

/// It ends with this status, without being told to.
pub(crate) fn ended(task: &Task<'_>, status: u64) -> Result<()> {
    let exit = task.wait()?;
    ensure!(exit.exit_status() == status, "{exit}");
    task.reaches("STOPPED")?;
    task.delete()?;
    task.remove()
}

/// A request that never ends, in the background.
fn spin(task: &Task<'_>) -> Result<()> {
    let request = "printf 'GET /spin HTTP/1.1\\r\\nHost: test\\r\\n\\r\\n' >&3";
    let wait = "(timeout 30 cat <&3 >/dev/null 2>&1 &) >/dev/null 2>&1";
    inside(
        task,
        &format!("exec 3<>/dev/tcp/127.0.0.1/8080; {request}; {wait}"),
    )?;
    task.writes("spinning")
}

fn a_second_term_ends_at_once(containerd: &Containerd) -> Result<()> {
    let task = start(&service(containerd, "second-term")?)?;
    spin(&task)?;
    task.kill("TERM")?;
    let status = task.status()?.context("it has a task")?;
    ensure!(status.state == "RUNNING", "{status:?}");
    task.kill("TERM")?;
    ended(&task, 143)
}

fn a_service_that_does_not_finish_has_its_grace(containerd: &Containerd) -> Result<()> {
    let run = service(containerd, "grace")?.annotation(&format!("{OPTION}.http-grace"), "300ms");
    let task = start(&run)?;
    spin(&task)?;
    task.kill("INT")?;
    ended(&task, 130)
}

fn other_programs_are_executed_beside_a_service(containerd: &Containerd) -> Result<()> {
    let task = start(&service(containerd, "beside")?)?;
    let output = task.exec("hello", ["/hello.wasm"])?.success()?;
    ensure!(output.stdout == "hello from wasi\n", "{output}");
    let output = task.exec("again", ["/app.wasm"])?;
    output.refused("it serves HTTP, which only the container's own program can do")?;
    task.end().map(drop)
}

fn an_address_that_is_taken_is_named(containerd: &Containerd) -> Result<()> {
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let address = taken.local_addr()?.to_string();
    let output = service(containerd, "http-taken")?
        .flag("--net-host")
        .annotation(&format!("{OPTION}.http-listen"), &address)
        .output()?;
    output.refused(&format!("cannot serve HTTP at {address}"))
}

fn options_without_a_service_are_refused(containerd: &Containerd) -> Result<()> {
    let output = service(containerd, "no-service")?
        .annotation(&format!("{OPTION}.http-requests"), "4")
        .args(["/hello.wasm"])
        .output()?;
    output.refused("/hello.wasm serves no HTTP")?;
    let output = service(containerd, "no-network")?
        .annotation(&format!("{OPTION}.allow-net"), "none")
        .output()?;
    output.refused("/app.wasm serves HTTP, and io.containerd.wasi.v1.allow-net is none")?;
    let output = service(containerd, "no-address")?
        .env("WASMTIME_HTTP_PROXY_SOCKET_ADDR", "8080")
        .output()?;
    output.refused("WASMTIME_HTTP_PROXY_SOCKET_ADDR with the value `8080`")
}
