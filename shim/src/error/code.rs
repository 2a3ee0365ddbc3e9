//! The one place where a failure gets a ttrpc code.

use ttrpc::Code;

use super::Error;
use crate::content::ContentError;
use crate::lifecycle::Refusal;

impl Error {
    /// The ttrpc code that containerd's clients tell failures by.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::NotFound { .. } => Code::NOT_FOUND,
            Self::AlreadyExists { .. } => Code::ALREADY_EXISTS,
            Self::Refused { refusal, .. } => match refusal {
                Refusal::AlreadyFinished => Code::NOT_FOUND,
                Refusal::AlreadyStarted
                | Refusal::NotStartable
                | Refusal::StillRunning
                | Refusal::NotRunning
                | Refusal::Paused
                | Refusal::NoHome => Code::FAILED_PRECONDITION,
                Refusal::NoSuchSignal(_) => Code::INVALID_ARGUMENT,
            },
            Self::Unimplemented(_) => Code::UNIMPLEMENTED,
            Self::LayerContent { source, .. } | Self::Image { source, .. } => match source.as_ref()
            {
                ContentError::Missing { .. } | ContentError::Damaged { .. } => {
                    Code::FAILED_PRECONDITION
                }
                ContentError::TooLarge { .. } | ContentError::TooDeep | ContentError::Layers(_) => {
                    Code::INVALID_ARGUMENT
                }
                ContentError::Call { .. }
                | ContentError::Silent { .. }
                | ContentError::Memory(_)
                | ContentError::Ending => Code::INTERNAL,
            },
            Self::Linux { code, .. } => *code,
            Self::Abandoned { .. } => Code::ABORTED,
            Self::Exec { .. } => Code::FAILED_PRECONDITION,
            Self::Bundle(_)
            | Self::Options(_)
            | Self::Pod(_)
            | Self::Entrypoint { .. }
            | Self::LinuxProgram(_)
            | Self::Rootfs { .. }
            | Self::MountSource { .. }
            | Self::Resources { .. }
            | Self::NoExecId
            | Self::NoService { .. }
            | Self::NoUpstream { .. }
            | Self::NoMiddleware { .. }
            | Self::Offline { .. }
            | Self::WorkingDirectory { .. }
            | Self::StdioUri { .. }
            | Self::ConsoleSize { .. } => Code::INVALID_ARGUMENT,
            Self::Program { source, .. } if source.is_guest_fault() => Code::INVALID_ARGUMENT,
            Self::Program { .. }
            | Self::Engine(_)
            | Self::Limit(_)
            | Self::Mount { .. }
            | Self::Stdio { .. }
            | Self::Logger { .. }
            | Self::Hook { .. }
            | Self::Cgroup { .. }
            | Self::Host { .. }
            | Self::Panicked => Code::INTERNAL,
        }
    }
}
