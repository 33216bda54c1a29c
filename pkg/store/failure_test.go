package store

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestModes(t *testing.T) {
	directory := filepath.Join(t.TempDir(), "a", "b")
	path := filepath.Join(directory, "state.db")
	open(t, path)
	for place, want := range map[string]os.FileMode{directory: 0o750, filepath.Dir(directory): 0o750, path: 0o600} {
		info, err := os.Stat(place)
		if err != nil || info.Mode().Perm() != want {
			t.Errorf("%s has mode %v, %v; want %v", place, info.Mode().Perm(), err, want)
		}
	}
}

func TestLocked(t *testing.T) {
	s := fresh(t)
	_, err := Open(s.path)
	if err == nil || !strings.Contains(err.Error(), s.path) || !strings.Contains(err.Error(), "in use by another process") {
		t.Fatalf("opening it twice gives %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	open(t, s.path)
}

func TestNoDirectory(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{filepath.Join(file, "state.db"), filepath.Dir(file)} {
		if _, err := Open(path); err == nil || !strings.Contains(err.Error(), file) && !strings.Contains(err.Error(), path) {
			t.Errorf("opening %s gives %v", path, err)
		}
	}
}

// What a store must not be opened for, told by its content.
func TestForeignContent(t *testing.T) {
	const vip = `{"address":"192.0.2.1","protocol":"tcp","port":80,"mode":"dsr-l2","pool":"web"}`
	for _, tt := range []struct{ name, bucket, key, value, want string }{
		{"newer schema", bucketMeta, keySchema, "5", "written by a newer version of Steelyard (schema 5; this one reads 4)"},
		{"no number", bucketMeta, keySchema, "one", `its schema version is "one"`},
		{"unknown field", bucketVIPs, "web", vip[:len(vip)-1] + `,"answer":42}`, `VIP "web": the record cannot be read: json: unknown field "answer"`},
		{"unknown word", bucketVIPs, "web", strings.Replace(vip, "dsr-l2", "snat", 1), `unknown forwarding mode "snat"`},
		{"missing fields", bucketVIPs, "web", `{}`, "unknown protocol"},
		{"cut off", bucketVIPs, "web", vip[:40], "cannot be read"},
		{"two records", bucketVIPs, "web", vip + vip, "followed by something else"},
		{"address", bucketVIPs, "web", strings.Replace(vip, "192.0.2.1", "192.0.2", 1), "cannot be read"},
		{"duration", bucketPools, "web", `{"table_size":251,"on_all_down":"drop","checks":[{"name":"x","type":"tcp","interval":"2","timeout":"1s"}]}`, `pool "web": check "x": time: missing unit`},
		{"unknown field within", bucketPools, "web", `{"table_size":251,"on_all_down":"drop","backends":[{"adress":"::1"}]}`, `unknown field "adress"`},
		{"tracking", bucketVIPs, "web", vip[:len(vip)-1] + `,"tracking":"sometimes"}`, `unknown tracking "sometimes"`},
		{"idle timeout", bucketVIPs, "web", vip[:len(vip)-1] + `,"idle_timeout":"15"}`, `VIP "web": time: missing unit`},
		{"down grace", bucketPools, "web", `{"table_size":251,"on_all_down":"drop","down_grace":"soon"}`, `pool "web": time: invalid duration`},
		{"drain", bucketPools, "web", `{"table_size":251,"on_all_down":"drop","backends":[{"address":"10.0.0.1","state":"draining","drain":{"deadline":"soon"}}]}`, "cannot be read"},
		{"backend state", bucketPools, "web", `{"table_size":251,"on_all_down":"drop","backends":[{"address":"10.0.0.1","state":"on"}]}`, `backend 10.0.0.1: unknown state "on"`},
		{"history", bucketHistory, "\x00\x00\x00\x00\x00\x00\x00\x07", `{"who":"me"}`, `history of revision 7`},
		{"history key", bucketHistory, "seven", `{}`, "damaged"},
		{"health", bucketHealth, "web\x0010.0.0.1\x00tcp", `{"health":"ill"}`, `unknown health "ill"`},
		{"health key", bucketHealth, "web", `{"health":"up"}`, "1 parts"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "state.db")
			if err := open(t, path).Close(); err != nil {
				t.Fatal(err)
			}
			poke(t, path, tt.bucket, tt.key, tt.value)
			before := read(t, path)
			_, err := Open(path)
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), path) {
				t.Errorf("got %v\nwant it to name the file and to say %s", err, tt.want)
			}
			if !bytes.Equal(before, read(t, path)) {
				t.Error("refusing the file changed it")
			}
		})
	}
	t.Run("control", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "state.db")
		if err := open(t, path).Close(); err != nil {
			t.Fatal(err)
		}
		poke(t, path, bucketVIPs, "web", vip)
		open(t, path)
	})
}

func TestAnotherProgramsDatabase(t *testing.T) {
	path := filepath.Join(t.TempDir(), "other.db")
	poke(t, path, "their bucket", "k", "v")
	if _, err := Open(path); err == nil || !strings.Contains(err.Error(), "another program's database") {
		t.Errorf("got %v", err)
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// A damaged file is an error that says so, whatever the damage, and never a
// crash. Where the damage goes unnoticed, it hit what is not in use.
func TestDamaged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	s := open(t, path)
	save(t, s, manyVIPs(500))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	intact := read(t, path)
	random := rand.New(rand.NewPCG(1, 2))
	garbage := make([]byte, 8192)
	for i := range garbage {
		garbage[i] = byte(random.Uint32())
	}
	overwrite := func(from, to int, with byte) []byte {
		out := bytes.Clone(intact)
		for i := from; i < min(to, len(out)); i++ {
			out[i] = with
		}
		return out
	}
	cases := map[string][]byte{
		"text":          []byte(strings.Repeat("this is no database\n", 1000)),
		"one byte":      {1},
		"garbage":       garbage,
		"no meta":       overwrite(0, 8192, 0),
		"meta only":     intact[:8192],
		"all ones":      overwrite(8192, len(intact), 0xff),
		"all zeros":     overwrite(8192, len(intact), 0),
		"first quarter": intact[:len(intact)/4/4096*4096],
	}
	for name, data := range cases {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "state.db")
			if err := os.WriteFile(path, data, 0o600); err != nil {
				t.Fatal(err)
			}
			s, err := Open(path)
			if err == nil {
				s.Close()
				t.Fatal("it was opened")
			}
			if !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "damaged") {
				t.Errorf("got %v", err)
			}
		})
	}
	for page := 0; page*4096 < len(intact); page++ {
		data := overwrite(page*4096, page*4096+4096, byte(random.Uint32()))
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := Open(path)
		if err != nil {
			if !strings.Contains(err.Error(), "damaged") && !strings.Contains(err.Error(), "cannot be read") {
				t.Errorf("damage to page %d gives %v", page, err)
			}
			continue
		}
		got, _, err := s.Load()
		if err == nil && !reflect.DeepEqual(got, manyVIPs(500)) && len(got.VIPs) != 0 {
			t.Errorf("damage to page %d gives another state", page)
		}
		s.Close()
	}
}

// On a full disk a change fails as a whole: what was stored before remains, in
// the open store as in one opened anew, and once there is space the change
// succeeds.
func TestFullDisk(t *testing.T) {
	directory := t.TempDir()
	done := make(chan struct{})
	go func() {
		defer close(done)
		// The file system is mounted for this thread only. The thread is not
		// unlocked, so that it ends with the goroutine, and the mount with it.
		runtime.LockOSThread()
		fullDisk(t, directory)
	}()
	<-done
}

func fullDisk(t *testing.T, directory string) {
	const size = 512 << 10
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
		t.Errorf("unshare: %v (this test needs root)", err)
		return
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		t.Errorf("make mounts private: %v", err)
		return
	}
	if err := unix.Mount("tmpfs", directory, "tmpfs", 0, "size=512k"); err != nil {
		t.Errorf("mount tmpfs: %v", err)
		return
	}
	path := filepath.Join(directory, "state.db")
	s, err := Open(path)
	if err != nil {
		t.Error(err)
		return
	}
	defer func() { s.Close() }()
	if _, err := s.Save(0, example(), "fits"); err != nil {
		t.Error(err)
		return
	}
	if at, err := s.Save(1, manyVIPs(size/50), "does not fit"); err == nil {
		t.Errorf("saved at revision %d on a full disk", at)
	} else if !strings.Contains(err.Error(), "no space left") || !strings.Contains(err.Error(), path) {
		t.Errorf("the error is %v", err)
	}
	for _, when := range []string{"open", "opened again"} {
		got, at, err := s.Load()
		if err != nil || at != 1 || !reflect.DeepEqual(got, example()) {
			t.Errorf("%s: the failed change left %d VIPs at revision %d, %v", when, len(got.VIPs), at, err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if s, err = Open(path); err != nil {
			t.Error(err)
			return
		}
	}
	if err := unix.Mount("", directory, "", unix.MS_REMOUNT, "size=64m"); err != nil {
		t.Errorf("enlarge tmpfs: %v", err)
		return
	}
	if at, err := s.Save(1, manyVIPs(size/50), "fits now"); err != nil || at != 2 {
		t.Errorf("with space again: revision %d, %v", at, err)
	}
}
