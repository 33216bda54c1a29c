//go:build control

package control

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// onlyGuest ends the test anywhere but in a machine that is there for it alone.
func onlyGuest(t *testing.T) {
	t.Helper()
	if os.Getenv("STEELYARD_GUEST") == "" {
		t.Fatal("not in a virtual machine of the kernel matrix")
	}
}

func TestFails(t *testing.T) { t.Error("as it should") }

func TestSkips(t *testing.T) { t.Skip("as it should") }

func TestHangs(*testing.T) { select {} }

// TestKernelPanics makes the kernel panic, as a bug of its own would.
func TestKernelPanics(t *testing.T) {
	onlyGuest(t)
	if err := os.WriteFile("/proc/sysrq-trigger", []byte("c"), 0); err != nil {
		t.Error(err)
	}
}

// TestPowersOff ends the machine before anybody reports.
func TestPowersOff(t *testing.T) {
	onlyGuest(t)
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF); err != nil {
		t.Error(err)
	}
}
