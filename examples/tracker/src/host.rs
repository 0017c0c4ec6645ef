//! The counters of the host, which are updated before `/metrics` is rendered.

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

    /// A counter that cannot be read keeps its value, so that `/metrics` still shows the others.
    pub(crate) fn update(&self) {
        for drops in &self.drops {
            if let Err(error) = drops.update() {
                tracing::warn!(%error, "cannot read the drops of a socket");
            }
        }
        if let Some(Err(error)) = self.kernel.as_ref().map(KernelCounters::update) {
            tracing::warn!(%error, "cannot read the kernel's counters");
        }
    }
}
