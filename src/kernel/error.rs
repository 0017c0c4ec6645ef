use std::{
    error::Error,
    fmt, io,
    path::{Path, PathBuf},
};

/// Why [`KernelCounters::update`](super::KernelCounters::update) set nothing.
#[derive(Debug)]
pub struct KernelCountersError {
    path: PathBuf,
    problem: Problem,
}

#[derive(Debug)]
pub(super) enum Problem {
    Io(io::Error),
    Line { number: usize, message: String },
    Whole(String),
}

impl Problem {
    pub(super) fn at(self, path: &Path) -> KernelCountersError {
        KernelCountersError {
            path: path.into(),
            problem: self,
        }
    }
}

impl KernelCountersError {
    /// The file or directory with the problem.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The system's error, if there is one. The message of this error contains it, so [`source`](Error::source)
    /// returns the source of the system's error.
    #[must_use]
    pub fn io_error(&self) -> Option<&io::Error> {
        match &self.problem {
            Problem::Io(error) => Some(error),
            Problem::Line { .. } | Problem::Whole(_) => None,
        }
    }
}

impl fmt::Display for KernelCountersError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        match &self.problem {
            Problem::Io(error) => write!(f, "cannot read {path}: {error}"),
            Problem::Line { number, message } => write!(f, "{path}, line {number}: {message}"),
            Problem::Whole(message) => write!(f, "{path}: {message}"),
        }
    }
}

impl Error for KernelCountersError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.io_error()?.source()
    }
}
