// Package common stands in for the package of Tencent Cloud's client that flannel imports: no module proxy serves that client's module.
package common

func BoolPtr(value bool) *bool {
	return &value
}

func StringPtr(value string) *string {
	return &value
}

func StringPtrs(values []string) []*string {
	pointers := make([]*string, len(values))
	for index := range values {
		pointers[index] = &values[index]
	}
	return pointers
}
