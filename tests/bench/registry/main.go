// A registry and a bucket that cost next to nothing, so that the client is what is measured.
//
// Source: serves the blobs of a corpus (-layout) in any repository. Sink: counts and drops what is put, keeps digests,
// sizes and manifests; hashes it where asked to. -s3 serves the files of a folder as objects of any bucket, by ranges.
// It prints two addresses: its own, and one of plain HTTP where GET /_stats says what was asked and moved, /_held what
// the sink has, and POST /_reset empties it (?keep=1: only what was counted; ?verify=1: from now on it hashes; ?free=1:
// from now on without latency and rate).
package main

import (
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"hash"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const bufferBytes = 256 << 10

var (
	layout  = flag.String("layout", "", "serve the corpus in this folder; empty: be a sink")
	objects = flag.String("s3", "", "serve the files of this folder as S3 objects")
	latency = flag.Duration("latency", 0, "added to every request")
	rate    = flag.Float64("rate", 0, "MB/s of a body, which is of a connection; 0: no limit")
	cert    = flag.String("cert", "", "TLS: certificate (PEM)")
	key     = flag.String("key", "", "TLS: its key (PEM)")

	buffers = sync.Pool{New: func() any { return make([]byte, bufferBytes) }}
	route   = regexp.MustCompile(`^/v2/(.+)/(blobs/uploads|blobs|manifests)/([^/]*)$`)
)

type stats struct {
	Requests, Heads, Gets, Posts, Puts, Patches, Mounts, BytesIn, BytesOut int64
}

type upload struct {
	size int64
	hash hash.Hash
}

type manifest struct {
	content   []byte
	mediaType string
}

// What a sink holds: blobs and manifests of each repository, and uploads under way.
type held struct {
	sync.Mutex
	verify    bool
	blobs     map[string]int64
	manifests map[string]manifest
	uploads   map[string]*upload
	next      int64
}

var (
	moved stats
	sink  held
	free  atomic.Bool
)

func (h *held) empty() {
	h.blobs, h.manifests, h.uploads = map[string]int64{}, map[string]manifest{}, map[string]*upload{}
}

func digestOf(content []byte) string {
	sum := sha256.Sum256(content)
	return "sha256:" + hex.EncodeToString(sum[:])
}

func count(number *int64, by int64) { atomic.AddInt64(number, by) }

// pace sleeps until n bytes since begin are no faster than the rate.
func pace(begin time.Time, n int64) {
	if *rate > 0 && !free.Load() {
		ahead := time.Duration(float64(n)/(*rate*1e6)*1e9) - time.Since(begin)
		if ahead > time.Millisecond {
			time.Sleep(ahead)
		}
	}
}

func serve(w http.ResponseWriter, r *http.Request) {
	count(&moved.Requests, 1)
	for method, number := range map[string]*int64{
		"GET": &moved.Gets, "HEAD": &moved.Heads, "POST": &moved.Posts, "PUT": &moved.Puts, "PATCH": &moved.Patches,
	} {
		if r.Method == method {
			count(number, 1)
		}
	}
	if *latency > 0 && !free.Load() {
		time.Sleep(*latency)
	}
	if *objects != "" {
		object(w, r)
		return
	}
	w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
	if r.URL.Path == "/v2/" || r.URL.Path == "/v2" {
		return
	}
	if name, listed := strings.CutSuffix(strings.TrimPrefix(r.URL.Path, "/v2/"), "/tags/list"); listed {
		tags(w, name)
		return
	}
	found := route.FindStringSubmatch(r.URL.Path)
	switch {
	case found == nil:
		http.NotFound(w, r)
	case found[2] == "manifests":
		manifests(w, r, found[1], found[3])
	case found[2] == "blobs":
		blob(w, r, found[1], found[3])
	default:
		uploads(w, r, found[1], found[3])
	}
}

func control(w http.ResponseWriter, r *http.Request) {
	sink.Lock()
	defer sink.Unlock()
	switch r.URL.Path {
	case "/_stats":
		json.NewEncoder(w).Encode(&moved)
	case "/_reset":
		asked := r.URL.Query()
		moved = stats{}
		free.Store(asked.Has("free"))
		sink.verify = asked.Has("verify")
		if *layout == "" && !asked.Has("keep") {
			sink.empty()
		}
	case "/_held":
		names := map[string]string{}
		for name, one := range sink.manifests {
			names[name] = digestOf(one.content)
		}
		json.NewEncoder(w).Encode(map[string]any{"blobs": sink.blobs, "manifests": names})
	}
}

func blob(w http.ResponseWriter, r *http.Request, repository, digest string) {
	w.Header().Set("Docker-Content-Digest", digest)
	if *layout != "" {
		file(w, r, filepath.Join(*layout, "blobs", "sha256", strings.TrimPrefix(digest, "sha256:")))
		return
	}
	sink.Lock()
	size, known := sink.blobs[repository+"@"+digest]
	sink.Unlock()
	if !known || r.Method != "HEAD" {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
}

// file sends a file, or the range of it that was asked for; without a rate by sendfile.
func file(w http.ResponseWriter, r *http.Request, path string) {
	f, err := os.Open(path)
	if err != nil {
		http.NotFound(w, r)
		return
	}
	defer f.Close()
	about, err := f.Stat()
	if err != nil || about.IsDir() {
		http.NotFound(w, r)
		return
	}
	first, length, status := int64(0), about.Size(), http.StatusOK
	if asked := r.Header.Get("Range"); asked != "" {
		var last int64
		if n, _ := fmt.Sscanf(asked, "bytes=%d-%d", &first, &last); n < 2 || last >= about.Size() {
			last = about.Size() - 1
		}
		if first > last {
			w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
			return
		}
		length, status = last-first+1, http.StatusPartialContent
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", first, last, about.Size()))
	}
	w.Header().Set("Accept-Ranges", "bytes")
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", strconv.FormatInt(length, 10))
	w.WriteHeader(status)
	if r.Method == "HEAD" {
		return
	}
	f.Seek(first, io.SeekStart)
	if *rate == 0 {
		n, _ := io.CopyN(w, f, length)
		count(&moved.BytesOut, n)
		return
	}
	buffer, begin := buffers.Get().([]byte), time.Now()
	defer buffers.Put(buffer)
	for sent := int64(0); sent < length; {
		part := buffer
		if rest := length - sent; rest < int64(len(part)) {
			part = part[:rest]
		}
		n, err := f.Read(part)
		if err != nil {
			return
		}
		if _, err := w.Write(part[:n]); err != nil {
			return
		}
		sent += int64(n)
		count(&moved.BytesOut, int64(n))
		pace(begin, sent)
	}
}

func uploads(w http.ResponseWriter, r *http.Request, repository, session string) {
	query := r.URL.Query()
	if r.Method == "POST" && mounted(repository, query.Get("mount"), query.Get("from")) {
		created(w, repository, query.Get("mount"))
		return
	}
	here, name := current(r.Method, session)
	if here == nil {
		http.NotFound(w, r)
		return
	}
	if r.Method != "GET" && r.ContentLength != 0 {
		if !receive(r.Body, here) {
			return
		}
	}
	digest := query.Get("digest")
	if r.Method == "GET" || r.Method == "PATCH" || digest == "" {
		w.Header().Set("Location", "/v2/"+repository+"/blobs/uploads/"+name)
		w.Header().Set("Docker-Upload-UUID", name)
		w.Header().Set("Range", fmt.Sprintf("0-%d", last(here.size)))
		if r.Method == "GET" {
			w.WriteHeader(http.StatusNoContent)
		} else {
			w.WriteHeader(http.StatusAccepted)
		}
		return
	}
	sink.Lock()
	defer sink.Unlock()
	delete(sink.uploads, name)
	if here.hash != nil && "sha256:"+hex.EncodeToString(here.hash.Sum(nil)) != digest {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	sink.blobs[repository+"@"+digest] = here.size
	created(w, repository, digest)
}

func last(size int64) int64 {
	if size == 0 {
		return 0
	}
	return size - 1
}

func created(w http.ResponseWriter, repository, digest string) {
	w.Header().Set("Docker-Content-Digest", digest)
	w.Header().Set("Location", "/v2/"+repository+"/blobs/"+digest)
	w.WriteHeader(http.StatusCreated)
}

func mounted(repository, digest, from string) bool {
	if digest == "" || from == "" {
		return false
	}
	sink.Lock()
	defer sink.Unlock()
	size, known := sink.blobs[from+"@"+digest]
	if known {
		sink.blobs[repository+"@"+digest] = size
		moved.Mounts++
	}
	return known
}

// current returns the upload of a session; a POST begins one.
func current(method, session string) (*upload, string) {
	sink.Lock()
	defer sink.Unlock()
	if method != "POST" {
		return sink.uploads[session], session
	}
	sink.next++
	here, name := &upload{}, strconv.FormatInt(sink.next, 36)
	if sink.verify {
		here.hash = sha256.New()
	}
	sink.uploads[name] = here
	return here, name
}

func receive(body io.Reader, into *upload) bool {
	buffer, begin := buffers.Get().([]byte), time.Now()
	defer buffers.Put(buffer)
	var got int64
	for {
		n, err := body.Read(buffer)
		got += int64(n)
		if into.hash != nil {
			into.hash.Write(buffer[:n])
		}
		pace(begin, got)
		if err == io.EOF {
			break
		}
		if err != nil {
			return false
		}
	}
	count(&moved.BytesIn, got)
	into.size += got
	return true
}

// tags lists all of a repository's, whatever page was asked for; one without manifests does not exist.
func tags(w http.ResponseWriter, repository string) {
	list, known := []string{}, false
	sink.Lock()
	for name := range sink.manifests {
		if reference, ours := strings.CutPrefix(name, repository+"@"); ours {
			known = true
			if !strings.HasPrefix(reference, "sha256:") {
				list = append(list, reference)
			}
		}
	}
	sink.Unlock()
	w.Header().Set("Content-Type", "application/json")
	if !known {
		w.WriteHeader(http.StatusNotFound)
		io.WriteString(w, `{"errors":[{"code":"NAME_UNKNOWN"}]}`)
		return
	}
	json.NewEncoder(w).Encode(map[string]any{"name": repository, "tags": list})
}

func manifests(w http.ResponseWriter, r *http.Request, repository, reference string) {
	if r.Method == "PUT" {
		content, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		one, digest := manifest{content, r.Header.Get("Content-Type")}, digestOf(content)
		sink.Lock()
		sink.manifests[repository+"@"+reference], sink.manifests[repository+"@"+digest] = one, one
		sink.Unlock()
		created(w, repository, digest)
		return
	}
	sink.Lock()
	one, known := sink.manifests[repository+"@"+reference]
	sink.Unlock()
	if !known && *layout != "" && strings.HasPrefix(reference, "sha256:") {
		content, err := os.ReadFile(filepath.Join(*layout, "blobs", "sha256", reference[7:]))
		one, known = manifest{content, mediaTypeOf(content)}, err == nil
	}
	if !known {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", one.mediaType)
	w.Header().Set("Docker-Content-Digest", digestOf(one.content))
	w.Header().Set("Content-Length", strconv.Itoa(len(one.content)))
	if r.Method == "GET" {
		w.Write(one.content)
		count(&moved.BytesOut, int64(len(one.content)))
	}
}

func mediaTypeOf(content []byte) string {
	var said struct{ MediaType string }
	json.Unmarshal(content, &said)
	return said.MediaType
}

// object answers HEAD and ranged GET of S3; its ETag is the file's time.
func object(w http.ResponseWriter, r *http.Request) {
	path := filepath.Join(*objects, filepath.Base(r.URL.Path))
	about, err := os.Stat(path)
	if err != nil || (r.Method != "GET" && r.Method != "HEAD") {
		http.NotFound(w, r)
		return
	}
	etag := fmt.Sprintf(`"%x"`, about.ModTime().UnixNano())
	if wanted := r.Header.Get("If-Match"); wanted != "" && strings.Trim(wanted, `"`) != strings.Trim(etag, `"`) {
		w.WriteHeader(http.StatusPreconditionFailed)
		return
	}
	w.Header().Set("ETag", etag)
	w.Header().Set("Last-Modified", about.ModTime().UTC().Format(http.TimeFormat))
	file(w, r, path)
}

// tagged makes the tags of a corpus known.
func tagged(folder string) {
	var images []struct{ Repository, Tag, Digest string }
	listed, err := os.ReadFile(filepath.Join(folder, "images.json"))
	if err == nil {
		err = json.Unmarshal(listed, &images)
	}
	for _, image := range images {
		var content []byte
		if content, err = os.ReadFile(filepath.Join(folder, "blobs", "sha256", image.Digest[7:])); err != nil {
			break
		}
		sink.manifests[image.Repository+"@"+image.Tag] = manifest{content, mediaTypeOf(content)}
	}
	if err != nil {
		log.Fatal(err)
	}
}

func main() {
	flag.Parse()
	sink.empty()
	if *layout != "" {
		tagged(*layout)
	}
	listening, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	aside, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	go http.Serve(aside, http.HandlerFunc(control))
	go func() { // who started us holds our stdin: it ends with him, however he ends
		io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	fmt.Println(listening.Addr(), aside.Addr())
	server := &http.Server{Handler: http.HandlerFunc(serve), ErrorLog: log.New(io.Discard, "", 0)}
	if *cert != "" {
		// HTTP/1.1 alone, as S3 and layers of ECR: Go's HTTP/2 server would be what is measured.
		server.TLSNextProto = map[string]func(*http.Server, *tls.Conn, http.Handler){}
		log.Fatal(server.ServeTLS(listening, *cert, *key))
	}
	log.Fatal(server.Serve(listening))
}
