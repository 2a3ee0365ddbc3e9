//! The streams of containers as `kubectl exec -it`, `kubectl attach` and `kubectl port-forward` have them.

use anyhow::{Result, ensure};
use integration_tests::containerd::Containerd;
use integration_tests::cri::Cri;
use integration_tests::flood::Flood;
use integration_tests::guests;
use integration_tests::image::Image;
use k8s_cri::v1::ContainerConfig;

cases![
    an_executed_command_streams_and_tells_its_status,
    an_executed_command_has_a_terminal,
    a_command_ends_when_its_client_goes,
    a_container_is_attached_to,
    the_only_client_of_an_input_ends_it,
    a_terminal_is_attached_to,
    a_port_is_forwarded_to_a_service,
];

const PROGRAMS: [&str; 7] = [
    "sleep",
    "exit",
    "hello",
    "cat",
    "tty",
    "flood",
    "stdin_block",
];
/// More than all buffers on the way.
const MUCH: u64 = 1 << 20;

/// All that is run here; `entrypoint` is the container's.
fn image(containerd: &Containerd, cri: &Cri, entrypoint: &str) -> Result<Image> {
    let mut image = Image::new(&format!("stream-{entrypoint}:1")).platform("linux", "amd64");
    for name in PROGRAMS {
        image = image.file(&format!("/bin/{name}"), guests::named(name)?);
    }
    let image = image.entrypoint([format!("/bin/{entrypoint}").as_str()]);
    cri.import(containerd, &image)?;
    Ok(image)
}

fn is_whole(came: &[u8]) -> Result<()> {
    let mut flood = Flood::default();
    flood.take(came);
    flood.ends_at(MUCH)
}

fn interactive(tty: bool, once: bool) -> impl FnOnce(&mut ContainerConfig) {
    move |config| {
        config.tty = tty;
        config.stdin = true;
        config.stdin_once = once;
    }
}

fn an_executed_command_streams_and_tells_its_status(containerd: &Containerd) -> Result<()> {
    let cri = Cri::connect(containerd)?;
    let image = image(containerd, &cri, "sleep")?;
    let pod = cri.pod("streams").run()?;
    let container = pod.container("sleep", &image).start()?;
    let said = container.execute(["/bin/hello"], false, false)?.finish()?;
    ensure!(
        said.code()? == 0 && said.text().contains("hello"),
        "{said:?}"
    );
    let said = container.execute(["/bin/exit", "7"], false, false)?;
    let said = said.finish()?;
    ensure!(said.code()? == 7, "{said:?}");
    let mut asks = container.execute(["/bin/stdin_block"], false, true)?;
    asks.reads("reading\n")?;
    asks.send("12345")?;
    let said = asks.finish()?;
    ensure!(
        said.code()? == 0 && said.text() == "reading\nread 5\n",
        "{said:?}"
    );
    let much = MUCH.to_string();
    let said = container.execute(["/bin/flood", &much], false, false)?;
    let said = said.finish()?;
    is_whole(&said.stdout)?;
    let said = container.execute(["/bin/flood", &much, "stderr"], false, false)?;
    let said = said.finish()?;
    is_whole(&said.stderr)?;
    pod.remove()
}

fn an_executed_command_has_a_terminal(containerd: &Containerd) -> Result<()> {
    let cri = Cri::connect(containerd)?;
    let image = image(containerd, &cri, "sleep")?;
    let pod = cri.pod("terminals").run()?;
    let container = pod.container("sleep", &image).start()?;
    let said = container.execute(["/bin/tty"], true, true)?.finish()?;
    let wanted = "stdin true\r\nstdout true\r\nstderr true\r\n";
    ensure!(said.code()? == 0 && said.text() == wanted, "{said:?}");
    let mut cat = container.execute(["/bin/cat"], true, true)?;
    cat.resize(132, 43)?;
    cat.send("typed\n")?;
    // The echo, and what was copied.
    cat.reads("typed\r\ntyped\r\n")?;
    cat.send("\x04")?;
    let said = cat.finish()?;
    ensure!(said.code()? == 0 && said.text().contains("eof"), "{said:?}");
    let mut cat = container.execute(["/bin/cat"], true, true)?;
    cat.send("more\n")?;
    cat.reads("more\r\nmore\r\n")?;
    cat.send("\x03")?;
    let said = cat.finish()?;
    ensure!(said.code()? == 130, "{said:?}");
    let much = MUCH.to_string();
    // With stdin: in a WebSocket, containerd takes none for one that has ended, and hangs up.
    let said = container.execute(["/bin/flood", &much], true, true)?;
    let said = said.finish()?;
    is_whole(&said.stdout)?;
    pod.remove()
}

fn a_command_ends_when_its_client_goes(containerd: &Containerd) -> Result<()> {
    let cri = Cri::connect(containerd)?;
    let image = image(containerd, &cri, "sleep")?;
    let pod = cri.pod("leaves").run()?;
    let container = pod.container("sleep", &image).start()?;
    let mut cat = container.execute(["/bin/cat"], false, true)?;
    cat.send("here")?;
    cat.reads("here")?;
    drop(cat);
    let ended = containerd.events().wait_until("the exec ends", |event| {
        let (container_id, exec) = (event.container(), event.process());
        event.of_task() == Some("exit") && container_id == container.id() && exec != container_id
    })?;
    // By the end of its input; newer containerds kill it at the same time.
    ensure!([0, 137].contains(&ended.exit_status()), "{ended}");
    pod.remove()
}

fn a_container_is_attached_to(containerd: &Containerd) -> Result<()> {
    let cri = Cri::connect(containerd)?;
    let image = image(containerd, &cri, "cat")?;
    let pod = cri.pod("attached").run()?;
    let container = pod
        .container("cat", &image)
        .with(interactive(false, false))
        .start()?;
    let mut first = container.attach(false, true)?;
    first.echoes("from the first\n", "from the first\n")?;
    // Two at once see the same.
    let mut second = container.attach(false, true)?;
    second.echoes("from the second\n", "from the second\n")?;
    first.reads("from the second\n")?;
    drop((first, second));
    let mut third = container.attach(false, true)?;
    third.echoes("from the third\n", "from the third\n")?;
    for line in ["from the first\n", "from the second\n", "from the third\n"] {
        container.writes(line)?;
    }
    container.stop(0)?;
    third.finish()?;
    pod.remove()
}

fn the_only_client_of_an_input_ends_it(containerd: &Containerd) -> Result<()> {
    let cri = Cri::connect(containerd)?;
    let image = image(containerd, &cri, "cat")?;
    let pod = cri.pod("once").run()?;
    let container = pod
        .container("cat", &image)
        .with(interactive(false, true))
        .start()?;
    let mut streams = container.attach(false, true)?;
    streams.echoes("attached\n", "attached\n")?;
    streams.send("once\n")?;
    streams.reads("once\n")?;
    drop(streams);
    let status = container.wait()?;
    ensure!(status.exit_code == 0, "{status:?}");
    let log = container.log()?;
    ensure!(log.ends_with("attached\nonce\neof\n"), "{log}");
    pod.remove()
}

fn a_terminal_is_attached_to(containerd: &Containerd) -> Result<()> {
    let cri = Cri::connect(containerd)?;
    let image = image(containerd, &cri, "cat")?;
    let pod = cri.pod("console").run()?;
    let container = pod
        .container("cat", &image)
        .with(interactive(true, false))
        .start()?;
    let mut streams = container.attach(true, true)?;
    streams.resize(80, 25)?;
    streams.echoes("typed\n", "typed\r\ntyped\r\n")?;
    streams.send("\x04")?;
    let said = streams.finish()?;
    ensure!(said.text().contains("eof"), "{said:?}");
    let status = container.wait()?;
    ensure!(status.exit_code == 0, "{status:?}");
    pod.remove()
}

fn a_port_is_forwarded_to_a_service(containerd: &Containerd) -> Result<()> {
    let cri = Cri::connect(containerd)?;
    let image = Image::new("stream-service:1")
        .platform("linux", "amd64")
        .file("/app.wasm", guests::named("handler")?)
        .entrypoint(["/app.wasm"]);
    cri.import(containerd, &image)?;
    let pod = cri.pod("forwarded").run()?;
    pod.container("service", &image).start()?;
    let get = "GET /hello HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n";
    for _ in 0..2 {
        let mut port = pod.forward(8080)?;
        port.send(get)?;
        let said = port.finish()?;
        let text = said.text();
        ensure!(
            text.starts_with("HTTP/1.1 200 ") && text.ends_with("hello\n"),
            "{said:?}"
        );
    }
    let said = pod.forward(8081)?.finish()?;
    let error = String::from_utf8_lossy(&said.stderr);
    ensure!(error.contains("connection refused"), "{said:?}");
    pod.remove()
}
