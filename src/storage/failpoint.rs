/// Ends the process at a named step, as a crash would: how the tests show that every step survives one. Nothing happens
/// unless the store was opened with that name.
#[derive(Debug, Clone, Default)]
pub struct Failpoint(Option<String>);

impl Failpoint {
    /// The process ends at the step of this name.
    #[must_use]
    pub fn new(name: Option<String>) -> Self {
        Self(name)
    }

    /// The step of this name is reached.
    pub(crate) fn reach(&self, name: &str) {
        if self.0.as_deref() == Some(name) {
            // No destructor and no flush, as if the power went.
            let _ = rustix::process::kill_process(
                rustix::process::getpid(),
                rustix::process::Signal::KILL,
            );
        }
    }
}
