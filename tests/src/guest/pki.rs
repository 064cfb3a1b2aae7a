//! Certificates for a server in a scenario, made by openssl.

use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use super::HOST;

/// An authority, and a certificate for the server as the guest sees it.
///
/// # Panics
/// When openssl cannot make them.
pub fn pki() -> TempDir {
    let directory = tempfile::tempdir().expect("a temporary directory");
    openssl(
        directory.path(),
        &format!("req -x509 {NEW} -keyout ca.key -out ca.pem -subj /CN=room -days 9"),
    );
    let name = format!("-subj /CN=server -addext subjectAltName=IP:{HOST}");
    openssl(
        directory.path(),
        &format!("req {NEW} -keyout server.key -out server.csr {name}"),
    );
    let sign = "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -copy_extensions copy -days 9";
    openssl(directory.path(), &format!("{sign} -out server.pem"));
    directory
}

const NEW: &str = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";

fn openssl(directory: &Path, arguments: &str) {
    let output = Command::new("openssl")
        .args(arguments.split(' '))
        .current_dir(directory)
        .output()
        .expect("openssl runs");
    assert!(
        output.status.success(),
        "openssl {arguments}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}
