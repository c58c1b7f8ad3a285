use super::*;

fn read_all(pieces: &[&[u8]]) -> Result<Vec<ServerMessage>, String> {
    let mut reader = Reader::default();
    let mut sent = Vec::new();
    for piece in pieces {
        reader.push(piece);
        while let Some(next) = reader.read()? {
            sent.push(next);
        }
    }
    Ok(sent)
}

const ALL: &[u8] = b"INFO {\"nonce\":\"abc\",\"max_payload\":1048576}\r\n+OK\r\nPING\r\nPONG\r\n\
    MSG _INBOX.e.7 1 28\r\n{\"stream\":\"EDGE\", \"seq\": 12}\r\n\
    MSG _INBOX.e.8 1 38\r\n{\"error\":{\"code\":503,\"description\":\"\"}}\r\n\
    HMSG _INBOX.e.9 1 16 16\r\nNATS/1.0 503\r\n\r\n\r\nMSG other 1 2\r\nhi\r\n-ERR 'Slow'\r\n";

#[test]
fn what_a_server_sends_is_read_in_whatever_pieces_it_comes() {
    let whole = read_all(&[ALL]).unwrap();
    assert_eq!(whole.len(), 7);
    assert!(matches!(&whole[0], ServerMessage::Info(info) if info.nonce.as_deref() == Some("abc")));
    assert_eq!((&whole[1], &whole[2]), (&ServerMessage::Ping, &ServerMessage::Pong));
    assert_eq!(whole[3], ServerMessage::Answer { number: 7, stored: Ok(()) });
    assert!(matches!(&whole[4], ServerMessage::Answer { number: 8, stored: Err(_) }));
    assert!(matches!(
        &whole[5],
        ServerMessage::Answer { number: 9, stored: Err(why) } if why.contains("503")
    ));
    assert!(matches!(&whole[6], ServerMessage::Error(why) if why.contains("Slow")));
    for cut in 0..ALL.len() {
        assert_eq!(read_all(&[&ALL[..cut], &ALL[cut..]]).unwrap(), whole, "cut at {cut}");
    }
}

#[test]
fn what_no_server_sends_is_refused() {
    let long = vec![b'x'; LINE_BYTES_MAX + 2];
    for wrong in [
        &b"HTTP/1.1 400 Bad Request\r\n"[..],
        b"INFO {\r\n",
        b"MSG a 1\r\n",
        b"MSG\r\n",
        b"MSG a 1 99999999\r\n",
        b"HMSG a 1 x 5\r\n",
        &long,
    ] {
        assert!(read_all(&[wrong]).is_err(), "{:?}", String::from_utf8_lossy(wrong));
    }
    // Headers longer than the whole are no panic.
    assert!(read_all(&[b"HMSG a.1 1 9 5\r\nhello\r\n"]).is_ok());
}

#[test]
fn a_publish_has_no_id_that_another_could_have_used() {
    let mut out = Vec::new();
    publish(&mut out, "countersign.edge.w", "_INBOX.e", 3, b"batch");
    assert_eq!(out, b"PUB countersign.edge.w _INBOX.e.3 5\r\nbatch\r\n");
    let answer = "{\"stream\":\"EDGE\",\"seq\":7,\"duplicate\":true}";
    let sent = format!("MSG _INBOX.e.3 1 {}\r\n{answer}\r\n", answer.len());
    let read = read_all(&[sent.as_bytes()]).unwrap();
    assert!(matches!(read[..], [ServerMessage::Answer { number: 3, stored: Err(_) }]), "{read:?}");
}

#[test]
fn a_greeting_says_who_we_are() {
    let mut server = NatsServer {
        host: "localhost".into(),
        port: 4_222,
        tls: false,
        prefix: String::new(),
        edge: "w".into(),
        credentials: Credentials::User("edge".into(), "a \"quoted\" word".into()),
    };
    let of = |server: &NatsServer, info: &Info| {
        greeting(server, info, "_INBOX.e").map(|bytes| String::from_utf8(bytes).unwrap())
    };
    let text = of(&server, &Info::default()).unwrap();
    assert!(text.contains(r#""pass":"a \"quoted\" word""#) && text.ends_with("PING\r\n"), "{text}");
    server.credentials = Credentials::NKey([7; 32]);
    assert!(of(&server, &Info::default()).unwrap_err().contains("nonce"));
    let info = Info { nonce: Some("n".into()), ..Info::default() };
    assert!(of(&server, &info).unwrap().contains(r#""nkey":"U"#));
}
