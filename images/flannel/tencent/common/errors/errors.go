// Package errors has the one type of Tencent Cloud's client that flannel asks an error for; none is ever of it.
package errors

type TencentCloudSDKError struct {
	Message string
}

func (e *TencentCloudSDKError) Error() string {
	return e.Message
}
