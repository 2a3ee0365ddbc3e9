use std::io::{PipeReader, PipeWriter, Read, Write, pipe};

use rustix::termios::{OptionalActions, isatty, tcgetattr, tcgetwinsize, tcsetattr};

use super::*;

const LIMIT: Duration = Duration::from_secs(10);

/// A terminal, its slave, and the client's ends.
fn open() -> (Terminal, std::fs::File, PipeWriter, PipeReader) {
    let (input, typing) = pipe().unwrap();
    let (shown, output) = pipe().unwrap();
    for end in [input.as_fd(), output.as_fd()] {
        rustix::io::ioctl_fionbio(end, true).unwrap();
    }
    let size = ConsoleSize::new(24, 80).unwrap();
    let (terminal, slave) = Terminal::open(size, Some(input.into()), Some(output.into())).unwrap();
    rustix::io::ioctl_fionbio(&slave, false).unwrap();
    (terminal, slave.into(), typing, shown)
}

async fn typed(terminal: &mut Terminal) -> Signal {
    std::future::poll_fn(|cx| terminal.poll_typed(cx)).await
}

#[tokio::test]
async fn it_echoes_edits_and_ends_lines() {
    let (terminal, mut slave, mut typing, mut shown) = open();
    assert!(isatty(&slave));
    typing.write_all(b"helo\x7flo\n\x04").unwrap();
    let mut line = [0; 64];
    let count = slave.read(&mut line).unwrap();
    assert_eq!(&line[..count], b"hello\n");
    assert_eq!(slave.read(&mut line).unwrap(), 0, "^D ends the input");
    slave.write_all(b"out\n").unwrap();
    drop(slave);
    assert!(terminal.drain(LIMIT).await);
    let mut text = String::new();
    shown.read_to_string(&mut text).unwrap();
    assert_eq!(text, "helo\u{8} \u{8}lo\r\nout\r\n");
}

#[tokio::test]
async fn it_has_the_size_it_was_given() {
    let (terminal, slave, _typing, _shown) = open();
    let size = |slave: &std::fs::File| tcgetwinsize(slave).map(|size| (size.ws_row, size.ws_col));
    assert_eq!(size(&slave), Ok((24, 80)));
    let console = terminal.console();
    console.resize(ConsoleSize::new(50, 132).unwrap()).unwrap();
    assert_eq!(size(&slave), Ok((50, 132)));
    drop(slave);
    assert!(terminal.drain(LIMIT).await);
    console.resize(ConsoleSize::new(1, 1).unwrap()).unwrap();
}

#[tokio::test]
async fn typed_signals_are_heard_by_the_slaves_settings() {
    let (mut terminal, mut slave, mut typing, mut shown) = open();
    typing.write_all(b"\x03").unwrap();
    assert_eq!(typed(&mut terminal).await, Signal::INT);
    let mut echo = [0; 2];
    shown.read_exact(&mut echo).unwrap();
    assert_eq!(echo, *b"^C", "the kernel has had it");
    let mut settings = tcgetattr(&slave).unwrap();
    settings.make_raw();
    tcsetattr(&slave, OptionalActions::Now, &settings).unwrap();
    typing.write_all(b"\x1c").unwrap();
    let mut byte = [0];
    slave.read_exact(&mut byte).unwrap();
    assert_eq!(byte, *b"\x1c", "a raw terminal passes it on");
    drop(typing);
    assert_eq!(typed(&mut terminal).await, Signal::HUP, "and it is none");
}

#[tokio::test]
async fn a_client_that_reads_nothing_is_waited_for_no_longer_than_the_limit() {
    let (terminal, mut slave, _typing, shown) = open();
    // Its pipe takes a page, as does the thread; the terminal takes two.
    rustix::pipe::fcntl_setpipe_size(&shown, 4096).unwrap();
    slave.write_all(&[b'x'; 12 << 10]).unwrap();
    drop(slave);
    assert!(!terminal.drain(Duration::from_millis(100)).await);
    drop(shown);
}

#[tokio::test]
async fn output_that_nobody_wants_does_not_hold_up_the_guest() {
    let (terminal, mut slave, _typing, shown) = open();
    drop(shown);
    for _ in 0..1000 {
        slave.write_all(&[b'x'; 4096]).unwrap();
    }
    drop(slave);
    assert!(terminal.drain(LIMIT).await);
}

#[tokio::test]
async fn dropping_it_hangs_up_the_slave() {
    let (terminal, mut slave, _typing, _shown) = open();
    drop(terminal);
    let mut byte = [0];
    // At once, or once the thread has let go of the master.
    assert!(matches!(slave.read(&mut byte), Ok(0) | Err(_)));
}
