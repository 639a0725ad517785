// Package v20170312 stands in for Tencent Cloud's client of route tables, as far as flannel's tencent-vpc backend calls it. Every call fails:
// a flannel that is configured for that backend says so and stops.
package v20170312

import "errors"

var errNone = errors.New("no such backend: this flannel was compiled without the client of Tencent Cloud")

type (
	Client struct{}

	Filter struct {
		Name   *string
		Values []*string
	}

	Route struct {
		DestinationCidrBlock *string
		Enabled              *bool
		GatewayId            *string
		GatewayType          *string
		RouteId              *uint64
		RouteType            *string
	}

	RouteTable struct {
		RouteSet     []*Route
		RouteTableId *string
	}

	RouteTables struct {
		RouteTableSet []*RouteTable
	}

	CreateRoutesRequest struct {
		RouteTableId *string
		Routes       []*Route
	}

	DeleteRoutesRequest struct {
		RouteTableId *string
		Routes       []*Route
	}

	DescribeRouteTablesRequest struct {
		Filters []*Filter
	}

	DescribeRouteTablesResponse struct {
		Response *RouteTables
	}

	Done struct{}
)

func NewClientWithSecretId(string, string, string) (*Client, error) {
	return &Client{}, nil
}

func NewCreateRoutesRequest() *CreateRoutesRequest {
	return &CreateRoutesRequest{}
}

func NewDeleteRoutesRequest() *DeleteRoutesRequest {
	return &DeleteRoutesRequest{}
}

func NewDescribeRouteTablesRequest() *DescribeRouteTablesRequest {
	return &DescribeRouteTablesRequest{}
}

func (*Client) CreateRoutes(*CreateRoutesRequest) (*Done, error) {
	return nil, errNone
}

func (*Client) DeleteRoutes(*DeleteRoutesRequest) (*Done, error) {
	return nil, errNone
}

func (*Client) DescribeRouteTables(*DescribeRouteTablesRequest) (*DescribeRouteTablesResponse, error) {
	return nil, errNone
}
