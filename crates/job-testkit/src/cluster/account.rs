//! Whom the server runs as, and where it may keep its files. PostgreSQL refuses to run as root.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// An account that root lends to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Account {
    uid: u32,
    gid: u32,
}

impl Account {
    /// None when this process may run a server itself; for root, the account `postgres`, else `nobody`.
    pub fn for_server() -> Result<Option<Self>> {
        if !rustix::process::geteuid().is_root() {
            return Ok(None);
        }
        let accounts = std::fs::read_to_string("/etc/passwd").context("cannot read /etc/passwd")?;
        let account = ["postgres", "nobody"].iter().find_map(|name| find(&accounts, name));
        account.map(Some).context("PostgreSQL does not run as root, and there is no account postgres or nobody to lend")
    }

    /// Gives a file or directory to the account.
    pub fn own(self, path: &Path) -> Result<()> {
        chown(path, Some(self.uid), Some(self.gid)).with_context(|| format!("cannot chown {}", path.display()))
    }

    /// Whether the account gets through every directory on the way to `path`.
    fn reaches(self, path: &Path) -> bool {
        path.ancestors().skip(1).all(|directory| {
            directory.as_os_str().is_empty()
                || directory.metadata().is_ok_and(|metadata| {
                    metadata.mode() & 0o001 != 0 || (metadata.uid() == self.uid && metadata.mode() & 0o100 != 0)
                })
        })
    }
}

fn find(accounts: &str, name: &str) -> Option<Account> {
    let line = accounts.lines().find(|line| line.split(':').next() == Some(name))?;
    let mut fields = line.split(':').skip(2);
    Some(Account { uid: fields.next()?.parse().ok()?, gid: fields.next()?.parse().ok()? })
}

/// A command run as the account, or as this process's own user.
pub fn command(program: &Path, account: Option<Account>) -> Command {
    use std::os::unix::process::CommandExt;
    let mut command = Command::new(program);
    if let Some(account) = account {
        command.uid(account.uid).gid(account.gid);
    }
    // A place that any account may be in; and no PG* variable of ours changes what the programs do.
    command.current_dir("/").env_clear().env("PATH", crate::env::var("PATH").unwrap_or_default());
    command
}

/// Makes the directory for the server and gives it to the account. When the account cannot get there (a checkout
/// below /root, say), the answer is a directory below /tmp that always belongs to the wanted one.
pub fn prepare_directory(wanted: &Path, account: Option<Account>) -> Result<PathBuf> {
    let wanted = std::path::absolute(wanted)?;
    create(wanted.parent().unwrap_or(&wanted))?;
    let directory = match account {
        Some(account) if !account.reaches(&wanted) => {
            let mut hasher = DefaultHasher::new();
            wanted.hash(&mut hasher);
            let name = wanted.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
            std::env::temp_dir().join(format!("jobs-{name}-{:08x}", hasher.finish() as u32))
        }
        _ => wanted,
    };
    create(&directory)?;
    // Below /tmp anybody may have put a link of that name.
    if !directory.symlink_metadata().is_ok_and(|metadata| metadata.is_dir()) {
        bail!("{} is not a directory of its own", directory.display());
    }
    std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(0o700))
        .with_context(|| format!("cannot set the mode of {}", directory.display()))?;
    if let Some(account) = account {
        account.own(&directory)?;
    }
    Ok(directory)
}

fn create(directory: &Path) -> Result<()> {
    std::fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_found_by_its_whole_name() {
        let accounts = "nobody2:x:7:8::/:/bin/sh\nnobody:x:65534:65533:nobody:/:/usr/sbin/nologin\n";
        assert_eq!(find(accounts, "nobody"), Some(Account { uid: 65534, gid: 65533 }));
        assert_eq!(find(accounts, "postgres"), None);
    }
}
