//! Requests that an edge signs.

use shared::keys::Keyring;
use shared::keys::request::{
    LIFE_MS, RequestError, body_field, sign, verify, verify_head, verify_known,
};
use shared::token::Signer;

use super::world::{DAY_MS, NOW, key, store};

const PATH: &str = "/v1/batches";

#[test]
fn a_signed_request_is_its_own_and_no_other() {
    let store = store();
    let keyring = Keyring::new(store.deployment, store.for_centre().public).unwrap();
    let signer = Signer::new(key(&store, "house"));
    let field = sign(&signer, store.deployment, PATH, b"batch", NOW);
    let check = |field: &str, path: &str, body: &[u8], now| {
        verify(field, &keyring, path, body, now).map(|key| key.issuer.to_string())
    };
    assert_eq!(check(&field, PATH, b"batch", NOW).as_deref(), Ok("house"));
    assert!(check(&field, PATH, b"batch", NOW.plus_ms(LIFE_MS)).is_ok());
    assert_eq!(check(&field, PATH, b"batch", NOW.plus_ms(LIFE_MS + 1)), Err(RequestError::Time));
    assert_eq!(check(&field, PATH, b"batch", NOW.minus_ms(LIFE_MS + 1)), Err(RequestError::Time));
    assert_eq!(check(&field, PATH, b"batch.", NOW), Err(RequestError::Signature));
    assert_eq!(check(&field, "/v1/import", b"batch", NOW), Err(RequestError::Signature));

    let parts: Vec<&str> = field.split('.').collect();
    let [id, at, signature] = parts[..] else { panic!("{field}") };
    let later = format!("{id}.{}.{signature}", NOW.0 + 1);
    assert_eq!(check(&later, PATH, b"batch", NOW), Err(RequestError::Signature));
    for wrong in ["", ".", "..", &field[1..], &format!("{field}="), &format!("{id}.x.{signature}")]
    {
        assert_eq!(check(wrong, PATH, b"batch", NOW), Err(RequestError::Malformed), "{wrong}");
    }
    let other = key(&store, "limited").public.id;
    let swapped = format!("{other}.{at}.{signature}");
    assert_eq!(check(&swapped, PATH, b"batch", NOW), Err(RequestError::Signature));

    // What another deployment signed is nothing here.
    let foreign = sign(&signer, shared::keys::DeploymentId(7), PATH, b"batch", NOW);
    assert_eq!(check(&foreign, PATH, b"batch", NOW), Err(RequestError::Signature));
    // A key that was retired yesterday is believed for a week, one that was revoked never.
    let of = |issuer: &str, now| {
        let signer = Signer::new(key(&store, issuer));
        (sign(&signer, store.deployment, PATH, b"batch", now), now)
    };
    let (field, now) = of("old", NOW);
    assert_eq!(check(&field, PATH, b"batch", now).as_deref(), Ok("old"));
    let (field, now) = of("old", NOW.plus_ms(7 * DAY_MS));
    assert_eq!(check(&field, PATH, b"batch", now), Err(RequestError::Key));
    let (field, now) = of("leaked", NOW);
    assert_eq!(check(&field, PATH, b"batch", now), Err(RequestError::Key));
    assert!(verify_known(&field, &keyring, PATH, b"batch", now).is_ok());
    assert!(verify_known(&field, &keyring, PATH, b"other", now).is_err());
}

#[test]
fn a_head_proves_its_sender_before_the_body_is_read() {
    let store = store();
    let keyring = Keyring::new(store.deployment, store.for_centre().public).unwrap();
    let of = |issuer: &str| {
        sign(&Signer::new(key(&store, issuer)), store.deployment, PATH, b"batch", NOW)
    };
    let check = |field: &str, body: Option<&str>, now| {
        let claim = verify_head(field, body, &keyring, PATH, now)?;
        Ok((claim.key.issuer.to_string(), claim.is_proven))
    };
    let (field, hash) = (of("house"), body_field(b"batch"));
    assert_eq!(check(&field, Some(&hash), NOW), Ok(("house".to_owned(), true)));
    assert_eq!(
        check(&field, Some(&body_field(b"other")), NOW),
        Err(RequestError::Signature),
        "who knows the id of a key has not its signature"
    );
    for wrong in ["", "00", &hash[1..], &hash.to_ascii_uppercase()] {
        assert_eq!(check(&field, Some(wrong), NOW), Err(RequestError::Body), "{wrong}");
    }
    // Senders of older builds do not say the hash.
    assert_eq!(check(&field, None, NOW), Ok(("house".to_owned(), false)));
    for hash in [None, Some(hash.as_str())] {
        let late = NOW.plus_ms(LIFE_MS + 1);
        assert_eq!(check(&field, hash, late), Err(RequestError::Time));
        assert_eq!(check(&of("leaked"), hash, NOW), Err(RequestError::Key));
        assert_eq!(check("x", hash, NOW), Err(RequestError::Malformed));
    }
}
