use std::time::Duration;

use proptest::prelude::*;

use super::*;

const TERM: Signal = Signal(15);
const USR1: Signal = Signal(10);

#[test]
fn a_container_is_started_once() {
    assert_eq!(decide(PhaseKind::Created, Request::Start), Verdict::Do);
    use PhaseKind::{Ending, Paused, Running, Stopped};
    for phase in [Running, Paused, Ending, Stopped] {
        assert!(matches!(decide(phase, Request::Start), Verdict::Refuse(_)));
    }
}

#[test]
fn signals_that_end_nothing_are_accepted_while_there_is_something_to_signal() {
    for signal in [USR1, Signal(0), Signal(18), Signal(28)] {
        assert_eq!(
            decide(PhaseKind::Running, Request::Kill(signal)),
            Verdict::Ignore
        );
        assert_eq!(
            decide(PhaseKind::Stopped, Request::Kill(signal)),
            Verdict::Refuse(Refusal::AlreadyFinished)
        );
    }
}

#[test]
fn stop_and_cont_pause_and_resume() {
    let (stop, cont) = (Request::Kill(Signal(19)), Request::Kill(Signal(18)));
    assert_eq!(decide(PhaseKind::Running, stop), Verdict::Do);
    assert_eq!(decide(PhaseKind::Paused, stop), Verdict::Ignore);
    assert_eq!(decide(PhaseKind::Paused, cont), Verdict::Do);
    assert_eq!(decide(PhaseKind::Running, cont), Verdict::Ignore);
    assert_eq!(
        decide(PhaseKind::Paused, Request::Kill(Signal::KILL)),
        Verdict::Do
    );
}

#[test]
fn every_signal_has_its_answer_in_every_phase() {
    use PhaseKind::{Created, Ending, Paused, Running, Stopped};
    use Refusal::{AlreadyFinished, NoSuchSignal};
    for number in 0..=u32::from(u8::MAX) {
        let signal = Signal(number);
        let verdicts = [Created, Running, Paused, Ending, Stopped]
            .map(|phase| decide(phase, Request::Kill(signal)));
        let finished = Verdict::Refuse(AlreadyFinished);
        let (created, running, paused) = match number {
            1 | 2 | 3 | 9 | 15 => (Verdict::Do, Verdict::Do, Verdict::Do),
            18 => (Verdict::Ignore, Verdict::Ignore, Verdict::Do),
            19 => (Verdict::Ignore, Verdict::Do, Verdict::Ignore),
            0..=64 => (Verdict::Ignore, Verdict::Ignore, Verdict::Ignore),
            65.. => [Verdict::Refuse(NoSuchSignal(number)); 3].into(),
        };
        assert_eq!(
            verdicts,
            [created, running, paused, finished, finished],
            "{number}"
        );
    }
}

#[test]
fn a_service_is_asked_to_finish_before_it_is_stopped() {
    for number in 0..=u32::from(u8::MAX) {
        let [first, second] =
            [Manner::Finishes, Manner::Stops].map(|manner| Signal(number).effect(manner));
        let expected = match number {
            1 | 2 | 3 | 15 => (Effect::Drain, Effect::End),
            9 => (Effect::End, Effect::End),
            _ => (second, second),
        };
        assert_eq!((first, second), expected, "{number}");
    }
}

#[test]
fn an_exec_needs_a_container_that_lives_and_is_not_paused() {
    assert_eq!(may_exec(PhaseKind::Created), Ok(()));
    assert_eq!(may_exec(PhaseKind::Running), Ok(()));
    assert_eq!(may_exec(PhaseKind::Paused), Err(Refusal::Paused));
    for over in [PhaseKind::Ending, PhaseKind::Stopped] {
        assert_eq!(may_exec(over), Err(Refusal::NoHome));
    }
}

#[test]
fn exits_have_the_numbers_of_the_design() {
    assert_eq!(exit_status(Some(&Outcome::Exited(7)), Some(TERM)), 7);
    assert_eq!(exit_status(Some(&Outcome::Exited(1000)), None), 232);
    assert_eq!(
        exit_status(
            Some(&Outcome::Trapped {
                trace: String::new()
            }),
            None
        ),
        134
    );
    assert_eq!(
        exit_status(Some(&Outcome::OutOfMemory { limit: 1 }), None),
        137
    );
    assert_eq!(
        exit_status(Some(&Outcome::NoMemoryLeft { limit: 1 }), None),
        137
    );
    let overflow = Outcome::StackOverflow {
        trace: String::new(),
    };
    assert_eq!(exit_status(Some(&overflow), None), 139);
    let many = Outcome::TooMany {
        what: wasi_runtime::Countable::Handles,
        limit: 1,
    };
    assert_eq!(exit_status(Some(&many), None), 134);
    let late = Outcome::DeadlineExceeded {
        after: Duration::from_secs(1),
    };
    assert_eq!(exit_status(Some(&late), Some(TERM)), 124);
    assert_eq!(exit_status(Some(&Outcome::Killed), Some(TERM)), 143);
    assert_eq!(exit_status(None, None), 255);
}

proptest! {
    /// A toy container that does as it is told: whatever is asked in whatever order, it runs at
    /// most once, ends at most once, and is never deleted while it runs.
    #[test]
    fn any_history_starts_and_ends_once(requests in prop::collection::vec(0_u32..64, 0..50)) {
        let (mut phase, mut starts, mut exits) = (PhaseKind::Created, 0, 0);
        for number in requests {
            if phase == PhaseKind::Ending && number >= 60 {
                // The client has taken the last output.
                exits += 1;
                phase = PhaseKind::Stopped;
                continue;
            }
            let request = match number {
                0..5 => Request::Start,
                5..10 => Request::Delete,
                10..15 => Request::Pause,
                15..20 => Request::Resume,
                signal => Request::Kill(Signal(signal - 20)),
            };
            if decide(phase, request) != Verdict::Do {
                continue;
            }
            let effect = match request {
                Request::Kill(signal) => signal.effect(Manner::Stops),
                Request::Pause => Effect::Pause,
                Request::Resume => Effect::Resume,
                Request::Start => {
                    starts += 1;
                    phase = PhaseKind::Running;
                    Effect::Nothing
                }
                Request::Delete => {
                    prop_assert!(matches!(phase, PhaseKind::Created | PhaseKind::Stopped));
                    break;
                }
            };
            match effect {
                Effect::End if phase == PhaseKind::Created => {
                    exits += 1;
                    phase = PhaseKind::Stopped;
                }
                Effect::End | Effect::Drain => phase = PhaseKind::Ending,
                Effect::Pause => phase = PhaseKind::Paused,
                Effect::Resume => phase = PhaseKind::Running,
                Effect::Nothing => {}
            }
            prop_assert!(starts <= 1 && exits <= 1);
        }
    }
}
