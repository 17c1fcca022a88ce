//! The operating-system side of the daemon: everything between `main` and the first connection that is not
//! Gearman.
//!
//! The parts take plain parameters and know nothing of the configuration. A server must use them in this
//! order:
//!
//! 0. [`signals::hold_reload_and_drain`], and [`signals::hold_all`] before there is a pid file; threads that
//!    are started later block them too, until [`signals::release`] when handlers are installed;
//! 1. [`listen::Listeners::inherited`]: sockets passed by systemd are bound to this process id;
//! 2. [`detach::detach`], before any thread exists;
//! 3. [`privileges::raise_file_descriptor_limit`], still with the initial privileges;
//! 4. [`listen::Listeners::bind`], so that ports below 1024 are possible, and [`pid_file::PidFile::create`]
//!    after it: an instance that fails to bind touches no pid file; [`state_directory::prepare`] changes its
//!    directory's owner;
//! 5. [`privileges::drop_to`];
//! 6. [`logging::init`], so that the log file belongs to the user that has to reopen it;
//! 7. [`memory::give_back_early`], before the first large block is freed;
//! 8. [`notify::Notifier::ready`] and [`detach::Readiness::ready`].

pub mod detach;
pub mod listen;
pub mod logging;
pub mod memory;
pub mod notify;
pub mod pid_file;
pub mod priority;
pub mod privileges;
pub mod signals;
pub mod socket;
pub mod state_directory;
