//! What the host counts: asked for before the counters are rendered.

use dualstack_metrics::{KernelCounters, udp_adapter::SocketDrops};

use crate::cli::Args;

pub(crate) struct Host {
    drops: Vec<SocketDrops>,
    kernel: Option<KernelCounters>,
}

impl Host {
    pub(crate) fn new(args: &Args) -> Self {
        Self {
            drops: Vec::new(),
            kernel: (!args.no_kernel).then(|| {
                let interfaces = args.kernel_interface.iter();
                interfaces.fold(KernelCounters::new(), KernelCounters::interface)
            }),
        }
    }

    pub(crate) fn add(&mut self, drops: SocketDrops) {
        self.drops.push(drops);
    }

    /// What cannot be had is left as it was: the other counters are worth showing.
    pub(crate) fn update(&self) {
        for drops in &self.drops {
            if let Err(error) = drops.update() {
                tracing::warn!(%error, "the drops of a socket cannot be read");
            }
        }
        if let Some(Err(error)) = self.kernel.as_ref().map(KernelCounters::update) {
            tracing::warn!(%error, "the kernel's counters cannot be read");
        }
    }
}
