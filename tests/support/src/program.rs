//! Other programs, as child processes.

use std::{
    env, fs,
    io::{BufRead, BufReader, Read},
    process::{Child, ChildStdout, Command, Output, Stdio},
    thread::{self, JoinHandle},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{eventually, say_skipped, skip_or_fail, spawning};

fn command(path: &str, args: &str) -> Command {
    let mut command = Command::new(path);
    command.args(args.split_whitespace());
    command
}

/// Whether `REQUIRE_EXTERNAL=1` demands the program. It demands what Debian does not have only if `ALSO_REQUIRE` has its
/// name.
fn is_required(program: &str) -> bool {
    let also_required = env::var("ALSO_REQUIRE").unwrap_or_default();
    !["envoy", "traefik"].contains(&program) || also_required.split(' ').any(|also| also == program)
}

/// A program that runs. It is killed when this is dropped.
#[derive(Debug)]
pub struct Program {
    child: Child,
    // Kept open, because a program fails when it writes to a closed pipe.
    stdout: Option<BufReader<ChildStdout>>,
    stderr: Option<JoinHandle<String>>,
}

impl Program {
    /// Runs the program at `path` to its end.
    pub fn run(path: &str, args: &str) -> Output {
        spawning(|| command(path, args).output()).unwrap()
    }

    /// Starts an installed program, and returns when it is ready. Skips the test where it is not installed.
    #[track_caller]
    pub fn start(command: &mut Command, is_ready: impl FnMut() -> bool) -> Option<Self> {
        spawning(|| {
            let program = command.get_program().display().to_string();
            match Self::spawn(command.stdout(Stdio::null())) {
                Ok(started) => {
                    eventually(&format!("{program} is ready"), is_ready);
                    Some(started)
                }
                Err(error) => {
                    let reason = format!("{program}: {error}");
                    if is_required(&program) {
                        skip_or_fail(&reason);
                    } else {
                        say_skipped(&reason);
                    }
                    None
                }
            }
        })
    }

    /// Starts one of our servers. Returns with the URLs where it listens, the one of its metrics last.
    #[track_caller]
    pub fn listening(path: &str, args: &str) -> (Self, Vec<String>) {
        spawning(|| {
            let mut program = Self::spawn(command(path, args).stdout(Stdio::piped())).unwrap();
            let mut stdout = BufReader::new(program.child.stdout.take().unwrap());
            let mut urls = Vec::new();
            while urls.last().is_none_or(|url: &String| !url.ends_with("/metrics")) {
                let mut line = String::new();
                stdout.read_line(&mut line).unwrap();
                let url = line.trim_end().strip_prefix("listening on ");
                urls.push(
                    url.unwrap_or_else(|| panic!("{path} {args}: {line:?}"))
                        .to_owned(),
                );
            }
            program.stdout = Some(stdout);
            (program, urls)
        })
    }

    fn spawn(command: &mut Command) -> std::io::Result<Self> {
        let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        let mut stderr = child.stderr.take().unwrap();
        let stderr = thread::spawn(move || {
            let mut text = String::new();
            stderr.read_to_string(&mut text).unwrap();
            text
        });
        Ok(Self {
            child,
            stdout: None,
            stderr: Some(stderr),
        })
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }

    /// The number of bytes that it has in memory (Linux).
    pub fn resident(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let kilobytes = status.split_once("VmRSS:").unwrap().1;
        1_024
            * kilobytes
                .split_whitespace()
                .next()
                .unwrap()
                .parse::<u64>()
                .unwrap()
    }

    /// Ends a program, which must still run, with a signal that it handles. Returns its stderr.
    #[track_caller]
    pub fn stop(mut self, signal: Signal) -> String {
        assert_eq!(self.child.try_wait().unwrap(), None, "it still runs");
        self.signal(signal);
        // One that was stopped gets the signal now.
        self.signal(Signal::SIGCONT);
        let mut status = None;
        eventually("the program has ended", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        let stderr = self.stderr.take().unwrap().join().unwrap();
        assert_eq!(status.unwrap().code(), Some(0), "{stderr}");
        assert!(!stderr.contains("panicked"), "{stderr}");
        stderr
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Both fail only if it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking()
            && let Some(Ok(stderr)) = self.stderr.take().map(JoinHandle::join)
            && !stderr.is_empty()
        {
            eprintln!("the program wrote to stderr:\n{stderr}");
        }
    }
}
