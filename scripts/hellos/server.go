// Servers for scripts/record-hellos: HTTP, TLS with a key for encrypted hellos, TLS that asks for another hello, QUIC, and QUIC with a Retry.
// It prints the list of ECH configurations in base64, and then "ready".
//
//go:debug default=go1.24
package main

import (
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

const echConfigID = 0x2a

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func certificate() tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	template := x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "recorded.example"},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(24 * time.Hour),
		DNSNames:     []string{"*.example", "public.example"},
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, &key.PublicKey, key)
	must(err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// One ECHConfig of draft 22 with X25519, HKDF-SHA256 and AES-128-GCM.
func echKey() tls.EncryptedClientHelloKey {
	key, err := ecdh.X25519().GenerateKey(rand.Reader)
	must(err)
	public := key.PublicKey().Bytes()
	contents := []byte{echConfigID, 0, 0x20, 0, byte(len(public))}
	contents = append(contents, public...)
	contents = append(contents, 0, 4, 0, 1, 0, 1, 32, byte(len("public.example")))
	contents = append(contents, "public.example"...)
	contents = append(contents, 0, 0)
	config := append([]byte{0xfe, 0x0d, 0, byte(len(contents))}, contents...)
	return tls.EncryptedClientHelloKey{Config: config, PrivateKey: key.Bytes(), SendAsRetry: true}
}

func answer(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Upgrade") == "websocket" {
		conn, _, err := w.(http.Hijacker).Hijack()
		if err == nil {
			io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: none\r\n\r\n")
			time.Sleep(200 * time.Millisecond)
			conn.Close()
		}
		return
	}
	io.Copy(io.Discard, r.Body)
	io.WriteString(w, "ok\n")
}

func main() {
	cert := certificate()
	ech := echKey()
	list := append([]byte{0, byte(len(ech.Config))}, ech.Config...)
	fmt.Println(base64.StdEncoding.EncodeToString(list))
	handler := http.HandlerFunc(answer)
	quiet := log.New(io.Discard, "", 0)

	plain, err := net.Listen("tcp", ":80")
	must(err)
	go (&http.Server{Handler: handler, ErrorLog: quiet}).Serve(plain)
	for port, config := range map[string]*tls.Config{
		":443": {EncryptedClientHelloKeys: []tls.EncryptedClientHelloKey{ech}},
		":444": {CurvePreferences: []tls.CurveID{tls.CurveP384}},
	} {
		config.Certificates = []tls.Certificate{cert}
		config.NextProtos = []string{"h2", "http/1.1"}
		// ServeTLS of Go 1.24 takes a copy of the configuration, without the keys.
		listener, err := tls.Listen("tcp", port, config)
		must(err)
		server := &http.Server{Handler: handler, TLSConfig: config, ErrorLog: quiet}
		go server.Serve(listener)
	}
	for port, withRetry := range map[int]bool{443: false, 445: true} {
		conn, err := net.ListenUDP("udp", &net.UDPAddr{Port: port})
		must(err)
		transport := &quic.Transport{Conn: conn}
		if withRetry {
			transport.VerifySourceAddress = func(net.Addr) bool { return true }
		}
		config := http3.ConfigureTLSConfig(&tls.Config{Certificates: []tls.Certificate{cert}})
		listener, err := transport.ListenEarly(config, &quic.Config{Allow0RTT: true, Versions: []quic.Version{quic.Version1, quic.Version2}})
		must(err)
		go (&http3.Server{Handler: handler}).ServeListener(listener)
	}
	fmt.Println("ready")
	select {}
}
