package dataplane

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// layout is the version of what is pinned: the maps' layouts and what their
// numbers mean. A program and maps of different layouts do not work together.
const layout = 2

var version = regexp.MustCompile(`^v[0-9]+$`)

// pinning is the directory in a bpffs where everything outlives the daemon:
//
//	PATH/v1/maps/NAME       the maps
//	PATH/v1/next/NAME       those of other sizes, until they take their place
//	PATH/v1/link_INTERFACE  the attachments, which hold the program
type pinning struct {
	path string
	// lock is the directory, locked against other daemons.
	lock *os.File
}

func (d *pinning) dir() string { return filepath.Join(d.path, fmt.Sprintf("v%d", layout)) }

const (
	mapsInUse = "maps"
	mapsNext  = "next"
	mapsOld   = "old"
)

func (d *pinning) maps(which string) string { return filepath.Join(d.dir(), which) }

func (d *pinning) mapPath(name string) string { return d.mapPathIn(mapsInUse, name) }

// A bpffs takes no dots in names, which those of variables have.
func (d *pinning) mapPathIn(which, name string) string {
	return filepath.Join(d.maps(which), strings.TrimPrefix(name, ".data."))
}

// The same of interfaces.
func (d *pinning) linkPath(iface string) string {
	return filepath.Join(d.dir(), "link_"+strings.ReplaceAll(iface, ".", dot))
}

const dot = "%2e"

// openPinning makes the directory, in a bpffs that it mounts there if need be, and
// locks it. It refuses a directory that another version has filled.
func openPinning(path string) (*pinning, error) {
	if strings.HasPrefix(path, standardBPFFS+"/") {
		if err := ensureBPFFS(standardBPFFS); err != nil {
			return nil, err
		}
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("pins: %w", err)
	}
	if err := ensureBPFFS(path); err != nil {
		return nil, err
	}
	lock, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("pins: %w", err)
	}
	d := &pinning{path: path, lock: lock}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("pins: another daemon uses %s; stop it, or set pin_path in the configuration", path), lock.Close())
	}
	if err := d.refuseForeign(); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return d, nil
}

// standardBPFFS is where systemd mounts a bpffs, and we do where it has not.
const standardBPFFS = "/sys/fs/bpf"

func ensureBPFFS(path string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return fmt.Errorf("pins: %s: %w", path, err)
	}
	if st.Type == unix.BPF_FS_MAGIC {
		return nil
	}
	if err := unix.Mount("bpffs", path, "bpf", 0, "mode=0700"); err != nil {
		return fmt.Errorf("pins: %s is not in a bpffs, and none can be mounted there: %w; mount one, or set pin_path in the configuration", path, err)
	}
	return nil
}

func (d *pinning) refuseForeign() error {
	entries, err := os.ReadDir(d.path)
	if err != nil {
		return fmt.Errorf("pins: %w", err)
	}
	for _, e := range entries {
		// The root of a bpffs has entries of the kernel's own as well.
		if version.MatchString(e.Name()) && e.Name() != filepath.Base(d.dir()) {
			return fmt.Errorf("pins: %s holds %q, of another version of Steelyard; this version knows %q only. "+
				"Run the version that made it, or let go of its connections with: steelyard detach --pin-path %s",
				d.path, e.Name(), filepath.Base(d.dir()), d.path)
		}
	}
	return nil
}

func (d *pinning) close() error { return d.lock.Close() }

// load opens the pinned maps. Without any, or with what a start that was killed
// left, it returns none, and clears the way. Maps of another layout are refused;
// same says whether all are there, of the sizes of the spec: a former version may have
// had fewer.
func (d *pinning) load(spec *ebpf.CollectionSpec) (maps map[string]*ebpf.Map, same bool, err error) {
	if err := d.recover(); err != nil {
		return nil, false, err
	}
	if _, err := os.Stat(d.mapPath(lbMapLedger)); errors.Is(err, fs.ErrNotExist) {
		return nil, true, d.clear()
	}
	maps, same = map[string]*ebpf.Map{}, true
	for name, want := range spec.Maps {
		if strings.HasPrefix(name, ".rodata") {
			continue
		}
		m, err := ebpf.LoadPinnedMap(d.mapPath(name), nil)
		if errors.Is(err, fs.ErrNotExist) {
			same = false
			continue
		}
		if err == nil {
			maps[name] = m
			same = same && m.MaxEntries() == want.MaxEntries
			err = fits(m, want)
		}
		if err != nil {
			return nil, false, errors.Join(fmt.Errorf("pins: map %s in %s: %w", name, d.dir(), err), closeMaps(maps))
		}
	}
	return maps, same, nil
}

// recover finishes, or undoes, a change of sizes that was interrupted.
func (d *pinning) recover() error {
	_, inUse := os.Stat(d.maps(mapsInUse))
	_, next := os.Stat(d.maps(mapsNext))
	if errors.Is(inUse, fs.ErrNotExist) && next == nil {
		if err := os.Rename(d.maps(mapsNext), d.maps(mapsInUse)); err != nil {
			return fmt.Errorf("pins: %w", err)
		}
	}
	for _, which := range []string{mapsNext, mapsOld} {
		if err := os.RemoveAll(d.maps(which)); err != nil {
			return fmt.Errorf("pins: %w", err)
		}
	}
	return nil
}

// promote puts the next maps in the place of those in use.
func (d *pinning) promote() error {
	for _, step := range [][2]string{{mapsInUse, mapsOld}, {mapsNext, mapsInUse}} {
		if err := os.Rename(d.maps(step[0]), d.maps(step[1])); err != nil {
			return fmt.Errorf("pins: %w", err)
		}
	}
	if err := os.RemoveAll(d.maps(mapsOld)); err != nil {
		return fmt.Errorf("pins: %w", err)
	}
	return nil
}

// fits compares the layout of a pinned map with what this program wants.
func fits(m *ebpf.Map, want *ebpf.MapSpec) error {
	if m.Type() != want.Type || m.KeySize() != want.KeySize || m.ValueSize() != want.ValueSize {
		return fmt.Errorf("its layout is not this version's; run the version that made it, or let go of its connections with: steelyard detach")
	}
	return nil
}

func closeMaps(maps map[string]*ebpf.Map) error {
	var errs []error
	for _, m := range maps {
		errs = append(errs, m.Close())
	}
	return errors.Join(errs...)
}

// save pins maps. The ledger comes last: a directory without it is one that was
// never finished.
func (d *pinning) save(which string, maps map[string]*ebpf.Map) error {
	if err := os.MkdirAll(d.maps(which), 0o700); err != nil {
		return fmt.Errorf("pins: %w", err)
	}
	for name, m := range maps {
		if name != lbMapLedger {
			if err := m.Pin(d.mapPathIn(which, name)); err != nil {
				return fmt.Errorf("pins: %w", err)
			}
		}
	}
	if err := maps[lbMapLedger].Pin(d.mapPathIn(which, lbMapLedger)); err != nil {
		return fmt.Errorf("pins: %w", err)
	}
	return nil
}

// links are the interfaces with a pinned attachment.
func (d *pinning) links() ([]string, error) {
	entries, err := os.ReadDir(d.dir())
	if err != nil {
		return nil, fmt.Errorf("pins: %w", err)
	}
	var names []string
	for _, e := range entries {
		if name, ok := strings.CutPrefix(e.Name(), "link_"); ok {
			names = append(names, strings.ReplaceAll(name, dot, "."))
		}
	}
	return names, nil
}

// loadLink opens the pinned attachment of an interface, nil if there is none that
// still holds: an interface that was made anew has lost its.
func (d *pinning) loadLink(iface string, index int) (link.Link, error) {
	l, err := link.LoadPinnedLink(d.linkPath(iface), nil)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("pins: %w", err)
	}
	info, err := l.Info()
	if err == nil && info.XDP() != nil && info.XDP().Ifindex == uint32(index) {
		return l, nil
	}
	return nil, errors.Join(l.Close(), os.Remove(d.linkPath(iface)))
}

// clear removes all pins of this version. Attachments go first, so that no packet
// meets a program whose maps are being taken away.
func (d *pinning) clear() error {
	entries, err := os.ReadDir(d.dir())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("pins: %w", err)
	}
	errs := []error{unpinLinks(d.dir())}
	for _, e := range entries {
		errs = append(errs, os.RemoveAll(filepath.Join(d.dir(), e.Name())))
	}
	return errors.Join(append(errs, os.Remove(d.dir()))...)
}

// unpinLinks detaches what is pinned as an attachment in a directory.
func unpinLinks(dir string) error {
	links, err := filepath.Glob(filepath.Join(dir, "link_*"))
	if err != nil {
		return err
	}
	var errs []error
	for _, path := range links {
		errs = append(errs, unpinLink(path))
	}
	return errors.Join(errs...)
}

// unpinLink detaches a pinned attachment and removes the pin. That alone would do,
// but the kernel would take its time.
func unpinLink(path string) error {
	var detached error
	if l, err := link.LoadPinnedLink(path, nil); err == nil {
		detached = errors.Join(l.Detach(), l.Close())
	}
	return errors.Join(detached, os.Remove(path))
}

// Unpin takes the program off all interfaces and removes what a daemon left pinned
// under a path, of whatever version. Connections lose what is known of them.
func Unpin(path string) error {
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	lock, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("pins: %w", err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fmt.Errorf("pins: a daemon uses %s; stop it first", path)
	}
	versions, err := filepath.Glob(filepath.Join(path, "v*"))
	if err != nil {
		return err
	}
	for _, v := range versions {
		if err := errors.Join(unpinLinks(v), os.RemoveAll(v)); err != nil {
			return fmt.Errorf("pins: %w", err)
		}
	}
	return nil
}
