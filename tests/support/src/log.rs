//! The log of `tracing`.

use std::{
    fmt, io,
    sync::{Arc, LazyLock, Mutex, PoisonError},
};

use tracing::{
    Dispatch,
    subscriber::{DefaultGuard, NoSubscriber},
};
use tracing_subscriber::{FmtSubscriber, fmt::MakeWriter};

/// Captures lines at INFO or above.
pub struct Log {
    lines: Lines,
    _guard: Option<DefaultGuard>,
}

// While there is only one subscriber, `tracing` asks the one of the thread that reaches a log line first, and keeps the
// answer for all threads. That thread may have none.
static ANOTHER: LazyLock<Dispatch> = LazyLock::new(|| Dispatch::new(NoSubscriber::new()));

impl Log {
    /// Captures the log of this thread until it is dropped.
    pub fn of_thread() -> Self {
        LazyLock::force(&ANOTHER);
        let lines = Lines::default();
        let guard = tracing::subscriber::set_default(lines.subscriber());
        Self {
            lines,
            _guard: Some(guard),
        }
    }

    /// Captures the log of the whole process from now on. Fails the second time.
    pub fn of_process() -> Self {
        let lines = Lines::default();
        tracing::subscriber::set_global_default(lines.subscriber()).unwrap();
        Self { lines, _guard: None }
    }

    /// The lines until now, such as `WARN a_crate::a_module: the message field=value`.
    pub fn lines(&self) -> Vec<String> {
        let bytes = self.lines.0.lock().unwrap_or_else(PoisonError::into_inner);
        let text = str::from_utf8(&bytes).unwrap();
        text.lines().map(|line| line.trim().to_owned()).collect()
    }

    /// The number of lines that contain a text.
    pub fn count(&self, text: &str) -> usize {
        self.lines().iter().filter(|line| line.contains(text)).count()
    }

    /// Fails unless there is one line, a warning with all of these words.
    #[track_caller]
    pub fn assert_warning(&self, words: &[&str]) {
        let lines = self.lines();
        let is_warning =
            |line: &str| line.starts_with("WARN ") && words.iter().all(|words| line.contains(words));
        assert!(
            lines.len() == 1 && is_warning(&lines[0]),
            "{words:?}, not {lines:#?}"
        );
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.lines()).finish()
    }
}

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    fn subscriber(&self) -> impl tracing::Subscriber + Send + Sync + use<> {
        FmtSubscriber::builder()
            .with_ansi(false)
            .without_time()
            .with_writer(self.clone())
            .finish()
    }
}

impl MakeWriter<'_> for Lines {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
