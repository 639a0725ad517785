// configmap-files keeps a folder equal to the files in the ConfigMaps of a cluster that have a label.
//
// It lists these ConfigMaps of all namespaces every few seconds. A file that its reader could not load is left out and named in
// the log and in the metrics: one bad file of one application must not stop the rules and dashboards of all others. Files are
// called NAMESPACE_CONFIGMAP_KEY, which is unique: names of namespaces and of ConfigMaps have no underscore.
package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"sort"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/VictoriaMetrics/VictoriaMetrics/app/vmalert/config"
	"github.com/VictoriaMetrics/VictoriaMetrics/app/vmalert/notifier"
	"github.com/VictoriaMetrics/VictoriaMetrics/app/vmalert/templates"
)

const (
	account = "/var/run/secrets/kubernetes.io/serviceaccount/"
	largest = 256 << 20 // bytes of one answer of the API server
)

// kinds are the files that can be asked for: their endings, and a check by the rules of the program that reads them.
var kinds = map[string]struct {
	endings []string
	check   func(data []byte, scratch string) error
}{
	"rules":      {[]string{".yaml", ".yml"}, checkRules},
	"dashboards": {[]string{".json"}, checkDashboard},
}

func main() {
	kind := flag.String("kind", "", "rules or dashboards")
	label := flag.String("label", "", "label selector of the ConfigMaps, as example.com/observability=rules")
	folder := flag.String("to", "", "folder to keep")
	interval := flag.Duration("interval", 10*time.Second, "time between two looks")
	address := flag.String("listen", ":8080", "address of /ready and /metrics")
	flag.Parse()
	slog.SetDefault(slog.New(slog.NewJSONHandler(os.Stderr, nil)))
	if _, known := kinds[*kind]; !known || *label == "" || *folder == "" || flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	if err := run(*kind, *label, *folder, *interval, *address); err != nil {
		slog.Error(err.Error())
		os.Exit(1)
	}
}

func run(kind, label, folder string, interval time.Duration, address string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := templates.Load(nil, url.URL{}); err != nil {
		return err
	}
	state := &state{kind: kind}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: state, ReadHeaderTimeout: 10 * time.Second}
	go server.Serve(listener)
	defer server.Close()
	for {
		files, err := list(ctx, label)
		if err == nil {
			err = state.keep(folder, files)
		}
		if ctx.Err() != nil {
			return nil
		}
		state.looked(err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(interval):
		}
	}
}

// file is one key of a ConfigMap.
type file struct {
	namespace, configMap, key, text string
}

func (f file) name() string {
	return f.namespace + "_" + f.configMap + "_" + f.key
}

// list returns every key of the ConfigMaps with a label. The token is read each time: the kubelet replaces it.
func list(ctx context.Context, label string) ([]file, error) {
	token, err := os.ReadFile(account + "token")
	if err != nil {
		return nil, err
	}
	authorities, err := os.ReadFile(account + "ca.crt")
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(authorities)
	client := &http.Client{
		Timeout:   time.Minute,
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, DisableKeepAlives: true},
	}
	host := net.JoinHostPort(os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT"))
	address := "https://" + host + "/api/v1/configmaps?labelSelector=" + url.QueryEscape(label)
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	answer, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, largest))
	if err != nil {
		return nil, err
	}
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the API server answers %s: %.200s", answer.Status, body)
	}
	var listed struct {
		Items []struct {
			Metadata struct{ Name, Namespace string }
			Data     map[string]string
		}
	}
	if err := json.Unmarshal(body, &listed); err != nil {
		return nil, err
	}
	var files []file
	for _, item := range listed.Items {
		for key, text := range item.Data {
			files = append(files, file{item.Metadata.Namespace, item.Metadata.Name, key, text})
		}
	}
	sort.Slice(files, func(i, j int) bool { return files[i].name() < files[j].name() })
	return files, nil
}

// state is what /metrics shows.
type state struct {
	kind    string
	mutex   sync.Mutex
	ready   bool
	failed  bool
	kept    int
	refused map[file]string
	checked map[file]string
}

// keep writes the files that can be loaded, and removes all others.
func (s *state) keep(folder string, files []file) error {
	kind := kinds[s.kind]
	scratch, err := os.MkdirTemp("", "candidate-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(scratch)
	wanted, refused, checked := map[string]bool{}, map[file]string{}, map[file]string{}
	var faults []error
	for _, f := range files {
		if !ends(f.key, kind.endings) {
			continue
		}
		fault, known := s.checked[f]
		if !known {
			fault = ""
			if err := kind.check([]byte(f.text), scratch); err != nil {
				fault = strings.ReplaceAll(err.Error(), scratch+"/", "")
				slog.Error("the file is left out", "namespace", f.namespace, "configmap", f.configMap, "key", f.key, "fault", fault)
			}
		}
		checked[f] = fault
		if fault != "" {
			refused[f] = fault
			continue
		}
		wanted[f.name()] = true
		faults = append(faults, write(filepath.Join(folder, f.name()), []byte(f.text)))
	}
	entries, err := os.ReadDir(folder)
	faults = append(faults, err)
	for _, entry := range entries {
		if !wanted[entry.Name()] {
			faults = append(faults, os.Remove(filepath.Join(folder, entry.Name())))
			slog.Info("removed", "file", entry.Name())
		}
	}
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.kept, s.refused, s.checked = len(wanted), refused, checked
	return errors.Join(faults...)
}

func (s *state) looked(err error) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if err != nil {
		slog.Error("the files stay as they are: " + err.Error())
	}
	s.failed = err != nil
	s.ready = s.ready || err == nil
}

// ServeHTTP answers /ready, once the folder was equal to the cluster, and /metrics.
func (s *state) ServeHTTP(writer http.ResponseWriter, request *http.Request) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	switch {
	case request.URL.Path == "/ready" && s.ready:
		fmt.Fprintln(writer, "ready")
	case request.URL.Path == "/ready":
		http.Error(writer, "the ConfigMaps have not been read yet", http.StatusServiceUnavailable)
	case request.URL.Path == "/metrics":
		writer.Header().Set("Content-Type", "text/plain; version=0.0.4")
		writer.Write(s.metrics())
	default:
		http.NotFound(writer, request)
	}
}

func (s *state) metrics() []byte {
	var text bytes.Buffer
	failed := 0
	if s.failed {
		failed = 1
	}
	fmt.Fprintf(&text, "configmap_files_kept{kind=%q} %d\n", s.kind, s.kept)
	fmt.Fprintf(&text, "configmap_files_last_look_failed{kind=%q} %d\n", s.kind, failed)
	for f := range s.refused {
		fmt.Fprintf(&text, "configmap_files_refused{kind=%q,namespace=%q,configmap=%q,key=%q} 1\n", s.kind, f.namespace, f.configMap, f.key)
	}
	return text.Bytes()
}

func ends(key string, endings []string) bool {
	for _, ending := range endings {
		if strings.HasSuffix(key, ending) {
			return true
		}
	}
	return false
}

// write replaces a file in one move, unless it has this content already: its reader may look at any time.
func write(path string, data []byte) error {
	former, err := os.ReadFile(path)
	if err == nil && bytes.Equal(former, data) {
		return nil
	}
	part := path + ".part"
	if err := os.WriteFile(part, data, 0o644); err != nil {
		return err
	}
	slog.Info("written", "file", filepath.Base(path))
	return os.Rename(part, path)
}

// checkRules has vmalert's own reader load the file, with its templates and expressions.
func checkRules(data []byte, scratch string) error {
	path := filepath.Join(scratch, "candidate.yaml")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		return err
	}
	_, err := config.ParseSilent([]string{path}, notifier.ValidateTemplates, true)
	return err
}

// checkDashboard reads the file with the types that vmui's server gives its fields.
func checkDashboard(data []byte, _ string) error {
	var dashboard struct {
		Title, Filename string
		Rows            []struct {
			Title  string
			Panels []struct {
				Title, Description, Unit string
				Expr, Alias              []string
				ShowLegend               *bool
				Width                    int
			}
		}
	}
	return json.Unmarshal(data, &dashboard)
}
