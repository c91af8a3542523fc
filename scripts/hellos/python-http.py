"""Requests of Python for scripts/record-hellos: python-http.py urllib|requests|tls URL."""
import sys
import urllib.request

import requests

kind, url = sys.argv[1:]
if kind == "urllib":
    urllib.request.urlopen(url).read()
    urllib.request.urlopen(urllib.request.Request(url + "post", data=b"a=1&b=2")).read()
elif kind == "tls":
    requests.packages.urllib3.disable_warnings()
    requests.get(url, verify=False)
else:
    with requests.Session() as session:
        session.get(url)
        session.post(url + "json", json={"a": "b" * 200})
        session.put(url + "chunked", data=iter([b"first", b"second" * 300, b"third"]))
        session.get(url + "end")
