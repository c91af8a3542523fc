// Clients of Go for scripts/record-hellos: client MODE URL [ECH-LIST].
//
//go:debug default=go1.24
package main

import (
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

func request(transport http.RoundTripper, method, url string, body io.Reader) {
	client := &http.Client{Transport: transport, Timeout: 10 * time.Second}
	req, err := http.NewRequest(method, url, body)
	if err == nil {
		var res *http.Response
		if res, err = client.Do(req); err == nil {
			io.Copy(io.Discard, res.Body)
			res.Body.Close()
			fmt.Println(res.Proto, res.Status)
			return
		}
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// A reader without a length, so that the body is sent in chunks.
type chunks struct{ io.Reader }

func main() {
	mode, url := os.Args[1], os.Args[2]
	config := &tls.Config{InsecureSkipVerify: true}
	switch mode {
	case "http":
		transport := &http.Transport{}
		request(transport, "GET", url, nil)
		request(transport, "POST", url+"length", strings.NewReader(strings.Repeat("a", 2000)))
		request(transport, "PUT", url+"chunked", chunks{strings.NewReader(strings.Repeat("b", 3000))})
		request(transport, "DELETE", url, nil)
	case "tls", "tls12", "no-pq", "ech":
		switch mode {
		case "tls12":
			config.MaxVersion = tls.VersionTLS12
		case "no-pq":
			config.CurvePreferences = []tls.CurveID{tls.X25519, tls.CurveP384}
		case "ech":
			list, err := base64.StdEncoding.DecodeString(os.Args[3])
			if err != nil {
				panic(err)
			}
			config.EncryptedClientHelloConfigList = list
			config.EncryptedClientHelloRejectionVerify = func(tls.ConnectionState) error { return nil }
		}
		request(&http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true}, "GET", url, nil)
	case "quic", "quic-v2", "quic-0rtt":
		quicConfig := &quic.Config{Versions: []quic.Version{quic.Version1}}
		if mode == "quic-v2" {
			quicConfig.Versions = []quic.Version{quic.Version2}
		}
		if mode == "quic-0rtt" {
			config.ClientSessionCache = tls.NewLRUClientSessionCache(4)
			request(&http3.Transport{TLSClientConfig: config, QUICConfig: quicConfig}, "GET", url, nil)
			time.Sleep(300 * time.Millisecond)
			request(&http3.Transport{TLSClientConfig: config, QUICConfig: quicConfig}, http3.MethodGet0RTT, url, nil)
			return
		}
		request(&http3.Transport{TLSClientConfig: config, QUICConfig: quicConfig}, "GET", url, nil)
	}
}
