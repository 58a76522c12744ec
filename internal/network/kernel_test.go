package network

import "testing"

func TestThisKernelWillDo(t *testing.T) {
	needKernel(t)
	for _, err := range CheckKernel() {
		t.Error(err)
	}
}
