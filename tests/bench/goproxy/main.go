// Go's plain reverse proxy, as the standard library has it: what a gateway in Go begins with.
//
//	goproxy LISTEN TARGET [pooled]
//
// By itself it keeps two idle connections to the upstream; "pooled": as many as there are calls at once.
package main

import (
	"log"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
)

func main() {
	target, err := url.Parse(os.Args[2])
	if err != nil {
		log.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.FlushInterval = -1
	if len(os.Args) > 3 && os.Args[3] == "pooled" {
		transport := http.DefaultTransport.(*http.Transport).Clone()
		transport.MaxIdleConnsPerHost = 1024
		transport.MaxIdleConns = 0
		proxy.Transport = transport
	}
	log.Fatal(http.ListenAndServe(os.Args[1], proxy))
}
