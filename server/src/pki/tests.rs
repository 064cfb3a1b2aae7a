//! The folder over its life: made, used, renewed, damaged.

use std::os::unix::fs::PermissionsExt;

use super::*;

const HOST: &str = "10.12.0.1";

fn pki() -> (tempfile::TempDir, Pki) {
    let folder = tempfile::tempdir().unwrap();
    let pki = Pki::at(folder.path().join("pki"));
    pki.ensure(&[HOST.to_owned()]).unwrap();
    (folder, pki)
}

fn content(pki: &Pki, name: &str) -> String {
    fs::read_to_string(pki.path(name)).unwrap()
}

#[test]
fn keys_are_readable_by_the_server_alone() {
    let (_folder, pki) = pki();
    pki.issue("r12-01").unwrap();
    for name in ["ca.key", "server.key", "clients/r12-01.key"] {
        let mode = fs::metadata(pki.path(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

#[test]
fn a_server_that_moves_gets_a_certificate_from_the_same_ca() {
    let (_folder, pki) = pki();
    let (ca, server) = (content(&pki, "ca.pem"), content(&pki, "server.pem"));
    pki.ensure(&[HOST.to_owned()]).unwrap();
    assert_eq!(content(&pki, "server.pem"), server, "nothing to do");
    let both = [HOST.to_owned(), "10.13.0.1".to_owned()];
    pki.ensure(&both).unwrap();
    let wider = content(&pki, "server.pem");
    assert_ne!(wider, server);
    pki.ensure(&both).unwrap();
    assert_eq!(content(&pki, "server.pem"), wider, "nothing to do");
    assert_eq!(content(&pki, "ca.pem"), ca);
}

#[test]
fn a_client_keeps_its_certificate_until_it_is_revoked() {
    let (_folder, pki) = pki();
    let first = pki.client_pair("r12-01").unwrap();
    let again = pki.client_pair("r12-01").unwrap();
    assert_eq!(
        (&first.certificate, &first.key),
        (&again.certificate, &again.key)
    );
    assert_eq!(pki.issue("r12-01").unwrap_err().kind(), ErrorKind::Exists);
    pki.revoke("r12-01").unwrap();
    assert!(content(&pki, "revoked.txt").ends_with(" r12-01\n"));
    assert_ne!(
        pki.client_pair("r12-01").unwrap().certificate,
        first.certificate
    );
    assert_eq!(pki.revoke("r12-02").unwrap_err().kind(), ErrorKind::Missing);
}

#[test]
fn a_list_of_those_revoked_that_cannot_be_read_is_not_begun_anew() {
    let (_folder, pki) = pki();
    pki.issue("r12-01").unwrap();
    // A folder in its place fails to be read even for root.
    fs::create_dir(pki.path("revoked.txt")).unwrap();
    let before = content(&pki, "revoked.pem");
    assert_eq!(pki.revoke("r12-01").unwrap_err().kind(), ErrorKind::File);
    assert_eq!(content(&pki, "revoked.pem"), before);
    assert!(pki.path("clients/r12-01.pem").exists());
}

#[test]
fn damage_and_bad_names_are_told() {
    let (_folder, pki) = pki();
    assert_eq!(pki.issue("../x").unwrap_err().kind(), ErrorKind::BadName);
    fs::write(pki.path("ca.key"), "nonsense").unwrap();
    assert_eq!(
        pki.issue("r12-01").unwrap_err().kind(),
        ErrorKind::Certificate
    );
    fs::write(pki.path("server.pem"), "nonsense").unwrap();
    let error = pki.ensure(&[HOST.to_owned()]).unwrap_err();
    assert!(error.to_string().contains("server.pem"), "{error}");
}
